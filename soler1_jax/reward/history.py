"""The frames that a rewarder has been shown of each episode, in bounded memory.

Every frame is kept until there is no room; then every other one is given up, and from
there on every second one is kept, then every fourth. The first and the latest frame are
always there. Letters: B episodes, C places, N frames shown at once, H W pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class History(NamedTuple):
    """What is remembered; leading axis B."""

    kept: jax.Array  # uint8 [B, C, H, W, 3], every `stride`-th frame
    latest: jax.Array  # uint8 [B, H, W, 3]
    seen: jax.Array  # int32 [B], frames so far
    stride: jax.Array  # int32 [B]


def begin(frames: jax.Array, capacity: int) -> History:
    """Starts with first frames uint8 [B, H, W, 3]; `capacity` is C, an even number."""
    frames = jnp.asarray(frames)
    batch = frames.shape[0]
    kept = jnp.zeros((batch, capacity, *frames.shape[1:]), jnp.uint8)
    ones = jnp.ones(batch, jnp.int32)
    return History(kept.at[:, 0].set(frames), frames, ones, ones)


def remember(history: History, frames: jax.Array) -> History:
    """Adds the next frames uint8 [B, H, W, 3]."""
    kept, _, seen, stride = history
    capacity = kept.shape[1]
    full = seen == capacity * stride

    def thin(kept: jax.Array) -> jax.Array:
        half = jnp.pad(kept[:, ::2], ((0, 0), (0, capacity // 2), *[(0, 0)] * 3))
        return jnp.where(full[:, None, None, None, None], half, kept)

    kept = jax.lax.cond(jnp.any(full), thin, lambda kept: kept, kept)
    stride = jnp.where(full, 2 * stride, stride)
    rows, place = jnp.arange(len(seen)), seen // stride
    keep = (seen % stride == 0)[:, None, None, None]
    kept = kept.at[rows, place].set(jnp.where(keep, frames, kept[rows, place]))
    return History(kept, jnp.asarray(frames), seen + 1, stride)


def choose(history: History, count: int) -> tuple[jax.Array, jax.Array]:
    """Picks frames evenly from the first to the latest of those remembered.

    Args:
      history: of B episodes.
      count: N, the most frames of each.

    Returns:
      uint8 [B, N, H, W, 3], the latest one repeated where there are fewer, and int32 [B],
      how many there are.
    """
    last = history.seen - 1
    extra = last % history.stride > 0
    total = last // history.stride + 1 + extra
    shown = jnp.minimum(total, count)
    steps = jnp.arange(count) * (total - 1)[:, None]
    places = jnp.round(steps / jnp.maximum(shown - 1, 1)[:, None]).astype(jnp.int32)
    places = jnp.minimum(places, total[:, None] - 1)
    rows = jnp.arange(len(last))[:, None]
    frames = history.kept[rows, places]
    newest = (places == total[:, None] - 1)[..., None, None, None]
    return jnp.where(newest, history.latest[:, None], frames), shown
