"""The tasks: names, sentences, the split into train and unseen, and run-time tables.

A task is a verb and a noun. Object tasks combine eight verbs with six colours and three
shapes; fixture tasks move a drawer, button, window, door, lid, lever or dial. Policies
are only ever trained on unseen tasks to show that the reward transfers: no training
record has an unseen combination of verb and noun, two nouns are never named in training
at all, and two fixture directions are unseen although their opposites are trained.

Dimension letters: N tasks. Directions: left is -x, right +x, away +y, near -y, as seen
from the external camera.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from soler1_jax.common.errors import UserError, nearest_hint

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("cube", "ball", "cylinder")
FIXTURES = ("drawer", "button", "window", "door", "lid", "lever", "dial")
OBJECT_VERBS = (
    "reach",
    "touch",
    "push_left",
    "push_right",
    "push_away",
    "push_near",
    "lift",
    "place",
)
FAMILIES = ("reach", "touch", "push", "lift", "place", *sorted(FIXTURES))

Split = Literal["train", "unseen"]

# Two nouns that no training record names.
UNSEEN_NOUNS = (("purple", "ball"), ("orange", "cylinder"))

_OBJECT_PHRASES: dict[str, tuple[str, ...]] = {
    "reach": (
        "move the gripper over the {}",
        "hover above the {}",
        "bring the hand over the {}",
        "go above the {}",
    ),
    "touch": (
        "touch the {}",
        "make contact with the {}",
        "put a finger on the {}",
        "reach out and touch the {}",
    ),
    "push_left": (
        "push the {} to the left",
        "move the {} left",
        "slide the {} toward the left side",
        "shove the {} left",
    ),
    "push_right": (
        "push the {} to the right",
        "move the {} right",
        "slide the {} toward the right side",
        "shove the {} right",
    ),
    "push_away": (
        "push the {} away",
        "move the {} to the back",
        "slide the {} toward the far side",
        "shove the {} back",
    ),
    "push_near": (
        "pull the {} near",
        "move the {} to the front",
        "slide the {} toward the near side",
        "drag the {} closer",
    ),
    "lift": (
        "lift the {}",
        "pick up the {}",
        "raise the {} off the table",
        "take the {} into the air",
    ),
    "place": (
        "place the {} on the plate",
        "put the {} on the plate",
        "move the {} onto the plate",
        "set the {} down on the plate",
    ),
}

# name, verb, fixture, direction of travel (+1 raises the travel fraction), split, phrases
_FIXTURE_ROWS: tuple[tuple[str, str, str, int, Split, tuple[str, ...]], ...] = (
    (
        "open-drawer",
        "open",
        "drawer",
        1,
        "train",
        ("open the drawer", "pull the drawer open", "slide the drawer open"),
    ),
    (
        "close-drawer",
        "close",
        "drawer",
        -1,
        "unseen",
        ("close the drawer", "push the drawer shut", "slide the drawer shut"),
    ),
    (
        "press-button",
        "press",
        "button",
        1,
        "train",
        ("press the button", "push the button down", "hit the button"),
    ),
    (
        "slide-window-right",
        "slide_right",
        "window",
        1,
        "train",
        (
            "slide the window to the right",
            "move the window right",
            "push the window pane to the right",
        ),
    ),
    (
        "slide-window-left",
        "slide_left",
        "window",
        -1,
        "unseen",
        (
            "slide the window to the left",
            "move the window left",
            "push the window pane to the left",
        ),
    ),
    (
        "open-door",
        "open",
        "door",
        1,
        "train",
        ("open the door", "pull the door open", "swing the door open"),
    ),
    (
        "close-door",
        "close",
        "door",
        -1,
        "train",
        ("close the door", "push the door shut", "shut the door"),
    ),
    (
        "open-lid",
        "open",
        "lid",
        1,
        "train",
        ("open the lid", "raise the lid of the box", "flip the lid open"),
    ),
    (
        "close-lid",
        "close",
        "lid",
        -1,
        "train",
        ("close the lid", "lower the lid of the box", "shut the lid"),
    ),
    (
        "lever-up",
        "raise",
        "lever",
        1,
        "train",
        ("move the lever up", "raise the lever", "pull the lever upward"),
    ),
    (
        "lever-down",
        "lower",
        "lever",
        -1,
        "train",
        ("move the lever down", "lower the lever", "push the lever downward"),
    ),
    (
        "turn-dial-left",
        "turn_left",
        "dial",
        1,
        "train",
        ("turn the dial to the left", "rotate the dial left", "spin the knob left"),
    ),
    (
        "turn-dial-right",
        "turn_right",
        "dial",
        -1,
        "train",
        ("turn the dial to the right", "rotate the dial right", "spin the knob right"),
    ),
)

VERBS = (*OBJECT_VERBS, *dict.fromkeys(row[1] for row in _FIXTURE_ROWS))


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: identifier such as `lift-red-cube`.
      family: one of `FAMILIES`.
      verb: one of `VERBS`.
      noun: what the sentence names, such as "red cube" or "drawer".
      color: of the named object; None for a fixture.
      shape: of the named object; None for a fixture.
      fixture: one of `FIXTURES`; None for an object.
      direction: +1 or -1, the way the fixture's travel must go; 0 for an object.
      sentence: the task in words; the first of `phrasings`.
      phrasings: several ways to say it.
      split: "train" or "unseen".
    """

    name: str
    family: str
    verb: str
    noun: str
    color: str | None
    shape: str | None
    fixture: str | None
    direction: int
    sentence: str
    phrasings: tuple[str, ...]
    split: Split


class TaskTable(NamedTuple):
    """What the environment needs to know of every task, as arrays of length N.

    Attributes:
      verb: int32, index into VERBS.
      family: int32, index into FAMILIES.
      color: int32, index into COLORS, -1 without a named object.
      shape: int32, index into SHAPES, -1 without a named object.
      fixture: int32, index into FIXTURES, -1 without a named fixture.
      direction: float32, +1 or -1 for fixtures, 0 for objects.
      push: float32 [N, 2], unit direction in the table's plane, 0 unless a push.
    """

    verb: np.ndarray
    family: np.ndarray
    color: np.ndarray
    shape: np.ndarray
    fixture: np.ndarray
    direction: np.ndarray
    push: np.ndarray


def _object_split(verb: str, color: str, shape: str) -> Split:
    """Leaves out two nouns entirely and one colour for each pair of verb and shape."""
    if (color, shape) in UNSEEN_NOUNS:
        return "unseen"
    number = OBJECT_VERBS.index(verb) + COLORS.index(color) + 2 * SHAPES.index(shape)
    return "unseen" if number % len(COLORS) == 0 else "train"


def _object_task(verb: str, color: str, shape: str) -> Task:
    noun = f"{color} {shape}"
    phrasings = tuple(phrase.format(noun) for phrase in _OBJECT_PHRASES[verb])
    return Task(
        name=f"{verb.replace('_', '-')}-{color}-{shape}",
        family=verb.split("_")[0],
        verb=verb,
        noun=noun,
        color=color,
        shape=shape,
        fixture=None,
        direction=0,
        sentence=phrasings[0],
        phrasings=phrasings,
        split=_object_split(verb, color, shape),
    )


def _fixture_task(
    name: str, verb: str, fixture: str, direction: int, split: Split, phrasings: tuple
) -> Task:
    return Task(
        name=name,
        family=fixture,
        verb=verb,
        noun=fixture,
        color=None,
        shape=None,
        fixture=fixture,
        direction=direction,
        sentence=phrasings[0],
        phrasings=phrasings,
        split=split,
    )


TASKS: tuple[Task, ...] = (
    *(
        _object_task(verb, color, shape)
        for verb in OBJECT_VERBS
        for color in COLORS
        for shape in SHAPES
    ),
    *(_fixture_task(*row) for row in _FIXTURE_ROWS),
)

_INDEX = {task.name: index for index, task in enumerate(TASKS)}

_PUSH = {
    "push_left": (-1.0, 0.0),
    "push_right": (1.0, 0.0),
    "push_away": (0.0, 1.0),
    "push_near": (0.0, -1.0),
}


def task_index(name: str) -> int:
    """Return the index of the task called `name` in `TASKS`.

    Raises:
      UserError: there is no such task; the message names the nearest.
    """
    if name not in _INDEX:
        raise UserError(
            f"a task is one of the {len(TASKS)} that `soler1 tasks` lists; "
            f"got {name!r}{nearest_hint(name, _INDEX)}"
        )
    return _INDEX[name]


def names(split: Split | None = None, family: str | None = None) -> tuple[str, ...]:
    """Return the names of all tasks, or those of one split and one family."""
    return tuple(
        task.name
        for task in TASKS
        if split in (None, task.split) and family in (None, task.family)
    )


def table() -> TaskTable:
    """Return the run-time table of all tasks, in the order of `TASKS`."""

    def index(choices: tuple[str, ...], values: list[str | None]) -> np.ndarray:
        found = [-1 if value is None else choices.index(value) for value in values]
        return np.asarray(found, np.int32)

    return TaskTable(
        verb=index(VERBS, [task.verb for task in TASKS]),
        family=index(FAMILIES, [task.family for task in TASKS]),
        color=index(COLORS, [task.color for task in TASKS]),
        shape=index(SHAPES, [task.shape for task in TASKS]),
        fixture=index(FIXTURES, [task.fixture for task in TASKS]),
        direction=np.asarray([task.direction for task in TASKS], np.float32),
        push=np.asarray(
            [_PUSH.get(task.verb, (0.0, 0.0)) for task in TASKS], np.float32
        ),
    )
