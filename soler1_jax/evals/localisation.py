"""Where a model sees the gripper and the thing that a sentence names.

The model's own positions, read off its heat maps, against the simulator's. What a
sentence asks for can only be judged by a model that finds its things to well under half
of the distance that scenes keep between two objects (`envs.layout.OBJECT_CLEAR`), so
errors are given in millimetres and as the share of frames beyond that half distance.

N frames, in groups: all, those in which the other object has the named one's colour or
shape, and all again without the wrist's view. Frames in which a thing cannot be seen from
outside are counted as well; a policy can hide things too.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from soler1_jax.data.records import CLASSES, FACTS, Episode
from soler1_jax.data.video import letterbox
from soler1_jax.envs.layout import OBJECT_CLEAR
from soler1_jax.model.functional import Functional, Params
from soler1_jax.reward import prompt
from soler1_jax.tokenizers.sentencepiece import Tokenizer

_OBJECT0, _OBJECT1 = CLASSES.index("object0"), CLASSES.index("object1")


def localise(
    model: Functional, params: Params, tokenizer: Tokenizer, episodes: Sequence[Episode]
) -> dict[str, dict[str, Any]]:
    """Measures positions on every frame of E episodes.

    Args:
      model: with `config.grounding`.
      params: its weights.
      tokenizer: of the model.
      episodes: records of equal length and size.

    Returns:
      group -> figures: "frames", and for "gripper", "named" and "offset" (from the
      gripper to the named thing) "mean_mm", "median_mm", "axes_mm" (mean absolute error
      along x, y, z) and "lost", the share of errors beyond half of OBJECT_CLEAR.
    """
    seen = _positions(model, params, tokenizer, episodes, wrist=True)
    true = _true_positions(episodes)
    same = {
        "the other object has its colour": _alike(episodes, "colors"),
        "the other object has its shape": _alike(episodes, "shapes"),
    }
    groups = {"all": _figures(seen, true)}
    for name, rows in same.items():
        if rows.any():
            groups[name] = _figures(seen[rows], true[rows])
    if model.config.wrist_size:
        blind = _positions(model, params, tokenizer, episodes, wrist=False)
        groups["without the wrist's view"] = _figures(blind, true)
    return groups


def _positions(
    model: Functional,
    params: Params,
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    *,
    wrist: bool,
) -> np.ndarray:
    """Seen places of gripper and named thing, float32 [E, T, 2, 3] in metres."""

    def see(params: Params, views: dict[str, jax.Array], text: Any) -> jax.Array:
        features = model.encode(params, views["external"], views.get("wrist"))
        return model.ground(params, features, text.ids, text.mask).position[:, :2]

    see = jax.jit(see)
    size = model.config.vision.image_size
    used = ("external", "wrist") if wrist and model.config.wrist_size else ("external",)
    found = []
    for episode in episodes:
        views = {view: letterbox(getattr(episode, view), size) for view in used}
        count = len(views["external"])
        text = prompt.prepare(tokenizer, [episode.sentence] * count)
        found.append(np.asarray(see(params, views, text)))
    return np.stack(found)


def _true_positions(episodes: Sequence[Episode]) -> np.ndarray:
    """The same of the simulator."""
    first = [FACTS.index(f"{name}_x") for name in ("gripper", "named")]
    facts = np.stack([e.facts for e in episodes])
    return np.stack([facts[..., i : i + 3] for i in first], axis=2)


def _alike(episodes: Sequence[Episode], attribute: str) -> np.ndarray:
    """Episodes, bool [E], whose second object shares an attribute of the named first."""

    def alike(episode: Episode) -> bool:
        values = getattr(episode, attribute)
        both = episode.named == _OBJECT0 and bool(episode.names[_OBJECT1])
        return both and values[_OBJECT0] == values[_OBJECT1]

    return np.array([alike(e) for e in episodes])


def _figures(seen: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    error = (seen - true).reshape(-1, 2, 3)
    parts = {
        "gripper": error[:, 0],
        "named": error[:, 1],
        "offset": error[:, 1] - error[:, 0],
    }
    table: dict[str, Any] = {"frames": len(error)}
    for name, part in parts.items():
        distance = 1000 * np.linalg.norm(part, axis=-1)
        table[name] = {
            "mean_mm": float(distance.mean()),
            "median_mm": float(np.median(distance)),
            "axes_mm": (1000 * np.abs(part).mean(0)).tolist(),
            "lost": float((distance > 500 * OBJECT_CLEAR).mean()),
        }
    return table
