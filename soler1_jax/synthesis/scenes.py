"""Words for what stands in a scene, class by class of the id buffer."""

from __future__ import annotations

import numpy as np

from soler1_jax.data.records import CLASSES, COLORS, SHAPES
from soler1_jax.envs import fixtures
from soler1_jax.envs.scene import SceneParams
from soler1_jax.envs.tasks import TASKS, UNSEEN_NOUNS
from soler1_jax.synthesis.episodes import Labels
from soler1_jax.synthesis.look import GRIPPER, HINGE, OBJECTS, PLATE, SLIDE


def label(task: int, scene: SceneParams, world: int, split: str) -> Labels:
    """Names, colours and shapes of one world's classes.

    Args:
      task: index into TASKS.
      scene: on the host, with a leading axis of worlds.
      world: which of them.
      split: in "train", the nouns that no training record names have no name.
    """
    names = [""] * len(CLASSES)
    colors = np.full(len(CLASSES), COLORS.index("none"), np.int32)
    shapes = np.full(len(CLASSES), SHAPES.index("none"), np.int32)
    names[GRIPPER] = "gripper"
    if scene.plate_present[world]:
        names[PLATE] = "plate"
    for index, thing in enumerate(OBJECTS):
        if not scene.present[world, index]:
            continue
        colors[thing] = scene.color[world, index]
        shapes[thing] = scene.shape[world, index]
        noun = (COLORS[colors[thing]], SHAPES[shapes[thing]])
        if split != "train" or noun not in UNSEEN_NOUNS:
            names[thing] = " ".join(noun)
    if scene.slide_kind[world]:
        names[SLIDE] = fixtures.SLIDES[int(scene.slide_kind[world])]
    if scene.hinge_kind[world]:
        names[HINGE] = fixtures.HINGES[int(scene.hinge_kind[world])]
    return Labels(tuple(names), _named(task), colors, shapes)


def _named(task: int) -> int:
    fixture = TASKS[task].fixture
    if fixture is None:
        return OBJECTS[0]
    return SLIDE if fixture in fixtures.SLIDES else HINGE
