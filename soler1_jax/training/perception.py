"""Perception losses: what is where in a frame, taught from the renderer's id buffer.

Dense labels per patch (class, colour, shape) and heat maps of the gripper and of
things that are named in words. Without them a small model stays on a plateau and
learns to copy instead of to look. Letters: N frames, M names a frame, P patches of the
external view and Pw of the wrist's, which come after them, C = 8 classes, F facts, L words of a name. Positions are in metres, world axes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.data.records import CLASSES, COLORS, FACTS, SHAPES
from soler1_jax.training import losses

GRIPPER = CLASSES.index("gripper")
STATE_SIZE = 7
# Classes whose place is among the facts. A fixture's is that of its handle; a scene has
# one fixture at most, so the part that is seen is the one that is meant.
_CENTRES = {
    "gripper": "gripper",
    "object0": "object0",
    "object1": "object1",
    "plate": "plate",
    "slide part": "handle",
    "hinge part": "handle",
}


class Scenes(NamedTuple):
    """Truth of N frames."""

    shares: jax.Array  # float32 [N,P(+Pw),C], share of each class in each patch
    colors: jax.Array  # int32 [N,C], of each class, index of COLORS
    shapes: jax.Array  # int32 [N,C], of each class, index of SHAPES
    named: jax.Array  # int32 [N], class that the task names
    facts: jax.Array  # float32 [N,F]


def column(facts: jax.Array, name: str) -> jax.Array:
    """One fact, [...] of [...,F]."""
    return facts[..., FACTS.index(name)]


def point(facts: jax.Array, name: str) -> jax.Array:
    """The position of "gripper", "named", "object0", ...: [...,3] metres."""
    first = FACTS.index(f"{name}_x")
    return facts[..., first : first + 3]


def state_target(facts: jax.Array) -> jax.Array:
    """What the state head must tell of the current frame: float32 [...,7].

    Offset from gripper to the point that it must reach (3) and their distance, both
    in units of `losses.POSITION_SCALE`; reach and act fractions; progress / 100.
    """
    offset = point(facts, "named") - point(facts, "gripper")
    distance = jnp.linalg.norm(offset, axis=-1, keepdims=True)
    rest = [column(facts, name)[..., None] for name in ("reach", "act")]
    progress = column(facts, "progress")[..., None] / 100
    metres = jnp.concatenate([offset, distance], -1) / losses.POSITION_SCALE
    return jnp.concatenate([metres, *rest, progress], axis=-1)


def dense_loss(logits: Any, scenes: Scenes) -> dict[str, jax.Array]:
    """Per-patch losses.

    Args:
      logits: has `classes` [N,P,8], `color` [N,P,7] and `shape` [N,P,4] of all patches.
      scenes: truth of the same frames.

    Returns:
      Cross-entropies in nats: "classes" over all patches, "color" and "shape" over
      patches that hold something coloured or shaped, by its share.
    """
    everywhere = jnp.ones(scenes.shares.shape[:2])
    color, color_weight = _attribute(scenes.shares, scenes.colors, len(COLORS))
    shape, shape_weight = _attribute(scenes.shares, scenes.shapes, len(SHAPES))
    return {
        "classes": losses.soft_cross_entropy(logits.classes, scenes.shares, everywhere),
        "color": losses.soft_cross_entropy(logits.color, color, color_weight),
        "shape": losses.soft_cross_entropy(logits.shape, shape, shape_weight),
    }


def _attribute(
    shares: jax.Array, values: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Fractions [N,P,count] of an attribute, and how much of a patch has one [N,P].

    The last value means "none" and is not taught.
    """
    onehot = jax.nn.one_hot(values, count) * (values < count - 1)[..., None]
    amount = jnp.einsum("npc,nca->npa", shares, onehot)
    weight = amount.sum(-1)
    return amount / jnp.maximum(weight, 1e-6)[..., None], weight


def heat_target(shares: jax.Array, which: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the pixels of one class are.

    Args:
      shares: [N,P,C].
      which: int32 [N,M], classes.

    Returns:
      Share of the class's pixels in each patch, float32 [N,M,P], and whether it is
      visible, bool [N,M]: at least a quarter of one patch's pixels.
    """
    pixels = jnp.take_along_axis(
        shares.swapaxes(1, 2), which[..., None], axis=1
    )  # [N,M,P]
    total = pixels.sum(-1)
    return pixels / jnp.maximum(total, 1e-6)[..., None], total > 0.25


def centres(scenes: Scenes) -> tuple[jax.Array, jax.Array]:
    """Positions of the classes, float32 [N,C,3], and whether they are known, bool [C]."""
    sources = [_CENTRES.get(name) for name in CLASSES]
    places = [point(scenes.facts, source or "gripper") for source in sources]
    return jnp.stack(places, axis=1), jnp.array([s is not None for s in sources])


def grounding_loss(
    grounded: Any, which: jax.Array, asked: jax.Array, scenes: Scenes
) -> dict[str, jax.Array]:
    """Losses of heat maps and positions.

    Args:
      grounded: has `heat_logits` [N,1+M,P] and `position` [N,1+M,3] in metres; 0 is
        the gripper, the others are the things in words.
      which: int32 [N,M], class of each thing in words.
      asked: bool [N,M], False where there are no words.
      scenes: truth of the N frames.

    Returns:
      Losses "gripper_heat", "named_heat" (nats), "gripper_position" and
      "named_position" (see `losses.position`), with a wrist's view
      "wrist_heat"; and measures
      "gripper_peak" and "named_peak": how often the hottest patch holds at least an
      eighth of a patch of the thing.
    """
    gripper = jnp.full_like(which[:, :1], GRIPPER)
    things = jnp.concatenate([gripper, which], axis=1)  # [N,1+M]
    asked = jnp.concatenate([asked.any(1, keepdims=True), asked], axis=1)
    count = grounded.heat_logits.shape[-1]
    target, visible = heat_target(scenes.shares[:, :count], things)
    seen = visible & asked
    places, known = centres(scenes)
    metres = jnp.take_along_axis(places, things[..., None], axis=1)
    sure = seen & known[things]
    rows = jnp.arange(len(which))[:, None]
    hottest = jnp.argmax(grounded.heat_logits, axis=-1)
    hit = scenes.shares[rows, hottest, things] >= 0.125
    result = {}
    for name, part in (("gripper", slice(0, 1)), ("named", slice(1, None))):
        result[f"{name}_heat"] = losses.heat(
            grounded.heat_logits[:, part], target[:, part], seen[:, part]
        )
        result[f"{name}_position"] = losses.position(
            grounded.position[:, part], metres[:, part], sure[:, part]
        )
        result[f"{name}_peak"] = losses.masked_mean(hit[:, part], seen[:, part])
    if grounded.wrist_logits is not None:
        close, there = heat_target(scenes.shares[:, count:], things)
        # The last place is out of view. Not by a concatenation with `there`: XLA of jax
        # 0.11.2 fuses that into a kernel that it then cannot compile for a GPU.
        close = jnp.pad(close, ((0, 0), (0, 0), (0, 1)))
        nowhere = jax.nn.one_hot(close.shape[-1] - 1, close.shape[-1])
        close = jnp.where(there[..., None], close, nowhere)
        result["wrist_heat"] = losses.heat(grounded.wrist_logits, close, asked)
    return result


def total(parts: dict[str, jax.Array]) -> jax.Array:
    """The perception loss: the sum of all parts that are not measures."""
    return sum(v for k, v in parts.items() if not k.endswith("_peak"))
