"""The decoder's prefix: the tokens of up to a few frames, then the prompt, or pictures
among the words of a prompt.

Letters: B sequences, F frames, n tokens of a frame, Lp words of the prompt, P = F*n + Lp
places of the prefix, S places of a completion, D channels, Ls DeepStack levels.
All arrays lead with B, so that a prefix can be repeated or gathered with `tree.map`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.model.prompt import Prompt
from soler1_jax.model.vision import FrameFeatures


class Prefix(NamedTuple):
    """What is known before the first generated token."""

    embeds: jax.Array  # [B, P, D]
    positions: jax.Array  # int32 [B, 3, P]: time, height, width
    deepstack: jax.Array  # [B, Ls, P', D] with P' <= P: the pictures' places
    mask: jax.Array  # bool [B, P], False on absent frames and padding
    last: jax.Array  # int32 [B], place of the last word of the prompt
    next_position: jax.Array  # int32 [B], position of the first generated token


def frame_offsets(grid: int, slots: int, *, plain: bool = False) -> np.ndarray:
    """Positions of a frame's tokens relative to its start, int32 [3, n].

    Merged tokens share one time and lie on a grid; slot tokens follow one by one, as
    words do. With plain positions all tokens do.
    """
    if plain:
        return np.tile(np.arange(grid * grid + slots), (3, 1)).astype(np.int32)
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    merged = np.stack([np.zeros_like(rows), rows, columns])
    after = np.tile(grid + np.arange(slots), (3, 1))
    return np.concatenate([merged, after], axis=1).astype(np.int32)


def prefix_positions(
    offsets: np.ndarray,
    frame_mask: jax.Array,
    prompt_mask: jax.Array,
    first: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Counts positions over the frames and words that are there.

    A frame starts one past everything before it and takes as many positions as its
    longest side, as in Qwen3-VL. Absent frames and padding take none.

    Args:
      offsets: int32 [3, n] of `frame_offsets`.
      frame_mask: bool [B, F].
      prompt_mask: bool [B, Lp].
      first: where to start.

    Returns:
      int32 [B, 3, F*n + Lp] positions and int32 [B], the position that comes next.
    """
    batch, frames = frame_mask.shape
    span = int(offsets.max()) + 1
    ends = first + span * jnp.cumsum(frame_mask.astype(jnp.int32), axis=1)
    starts = ends - span * frame_mask.astype(jnp.int32)
    pictures = starts[:, None, :, None] + jnp.asarray(offsets)[None, :, None, :]
    pictures = pictures.reshape(batch, 3, frames * offsets.shape[1])
    counts = jnp.cumsum(prompt_mask.astype(jnp.int32), axis=1)
    begin = ends[:, -1:]
    words = begin + jnp.maximum(counts - 1, 0)
    words = jnp.broadcast_to(words[:, None], (batch, 3, prompt_mask.shape[1]))
    positions = jnp.concatenate([pictures, words], axis=2)
    return positions.astype(jnp.int32), (begin + counts[:, -1:])[:, 0]


def mixed_prefix(
    words: jax.Array, prompt: Prompt, features: FrameFeatures | None
) -> Prefix:
    """Puts picture tokens in the places of their placeholders.

    Args:
      words: [B, P, D], embedded `prompt.ids`.
      prompt: of `prompt.make_prompt`.
      features: of its patches; None without pictures.
    """
    source, deepstack = jnp.asarray(prompt.source), words[:, None, :0]
    if features is not None:
        pictured = source >= 0
        chosen = jnp.maximum(source, 0)
        # Frames and their tokens become one axis; levels lead, for one lookup in all.
        tokens = jax.lax.collapse(features.tokens, 0, 2)
        levels = jax.lax.collapse(jnp.moveaxis(features.deepstack, 1, 0), 1, 3)
        words = jnp.where(pictured[..., None], tokens[chosen], words)
        levels = levels[:, chosen]
        deepstack = jnp.moveaxis(jnp.where(pictured[..., None], levels, 0), 0, 1)
    return Prefix(
        embeds=words,
        positions=jnp.asarray(prompt.positions),
        deepstack=deepstack,
        mask=jnp.asarray(prompt.mask),
        last=jnp.asarray(prompt.last),
        next_position=jnp.asarray(prompt.next_position),
    )


def prefix_mask(mask: jax.Array, *, bidirectional: bool) -> jax.Array:
    """Who sees whom within a prefix: bool [B, P] -> bool [B, P, P] (query, key)."""
    if bidirectional:
        return jnp.broadcast_to(mask[:, None], (*mask.shape, mask.shape[1]))
    length = mask.shape[1]
    return mask[:, None] & jnp.tril(jnp.ones((length, length), bool))


def full_mask(
    mask: jax.Array, completion_mask: jax.Array, *, bidirectional: bool
) -> jax.Array:
    """Who sees whom in prefix and completion: bool [B, P+S, P+S] (query, key).

    The completion is causal and sees the whole prefix; the prefix never sees it.
    """
    length, words = mask.shape[1], completion_mask.shape[1]
    inside = prefix_mask(mask, bidirectional=bidirectional)
    top = jnp.pad(inside, ((0, 0), (0, 0), (0, words)))
    causal = completion_mask[:, None] & jnp.tril(jnp.ones((words, words), bool))
    before = jnp.broadcast_to(mask[:, None], (mask.shape[0], words, length))
    return jnp.concatenate([top, jnp.concatenate([before, causal], axis=2)], axis=1)


def near_mask(
    mask: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    window: int,
    *,
    exempt: int = 0,
) -> jax.Array:
    """Keeps what is less than `window` positions back: bool [B, T, C] (query, key).

    Positions and not places are compared, so that padding takes no room in the window.

    Args:
      mask: bool [B, T, C].
      queries, keys: int32 [B, T] and [B, C], plain positions.
      window: tokens seen, the query's own included.
      exempt: so many first queries and keys see each other at any distance: those of a
        bidirectional prefix.

    Source: Gemma 2 (arXiv 2408.00118), section 2; that the prefix is exempt follows
    transformers' PaliGemma.
    """
    near = queries[:, :, None] - keys[:, None, :] < window
    near = near.at[:, :exempt, :exempt].set(True)
    return mask & near
