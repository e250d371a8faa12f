"""Who sees whom, element by element and block by block.

Dimension letters: B rows of a batch, T tokens, N blocks; R is B with segments, else 1.
A query sees a key if their segments are equal and positive and, with `causal`, if the key
is not later. Positions count from the end: the last query stands at the last key, as in
flash-attn from 2.1 on (`jax.nn.dot_product_attention` counts from the start).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

MASKED = -1e30
"""A logit that is not allowed; finite, so that differences of two are no NaN."""

FLOOR = MASKED / 2
"""Where a running maximum starts: far below logits and far above `MASKED`."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is static about one call.

    Attributes:
      queries, keys: lengths Tq and Tk, without padding.
      causal: whether later keys are hidden.
      softmax_scale: factor of the products of queries and keys.
      logit_cap: c of c * tanh(logit / c), after the scale; None for no cap.
      block_q, block_k: queries and keys of a block.
    """

    queries: int
    keys: int
    causal: bool
    softmax_scale: float
    logit_cap: float | None
    block_q: int
    block_k: int

    @property
    def blocks_q(self) -> int:
        """Blocks of queries; the last may be padded."""
        return -(-self.queries // self.block_q)

    @property
    def blocks_k(self) -> int:
        """Blocks of keys; the last may be padded."""
        return -(-self.keys // self.block_k)

    @property
    def offset(self) -> int:
        """Position of the first query among the keys."""
        return self.keys - self.queries


def pad_blocks(x: Array, blocks: int, size: int, axis: int) -> Array:
    """Return `x` padded with zeros to a number of blocks along an axis."""
    missing = blocks * size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis % x.ndim] = (0, missing)
    return jnp.pad(x, widths)


def visible(
    rules: Rules,
    query: Array,
    key: Array,
    query_segments: Array | None,
    key_segments: Array | None,
) -> Array | None:
    """Return which pairs are allowed, from arrays that broadcast; None for all.

    Args:
      rules: the call's.
      query, key: int32 indices into the padded lengths.
      query_segments, key_segments: int32, or None without segments.
    """
    conditions = []
    if query_segments is not None:
        conditions.append((query_segments == key_segments) & (key_segments > 0))
    elif rules.keys % rules.block_k:
        conditions.append(key < rules.keys)
    if rules.causal:
        conditions.append(key <= query + rules.offset)
    return functools.reduce(jnp.logical_and, conditions) if conditions else None


def key_ranges(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> tuple[Array, Array]:
    """Return, for each block of queries, the first and one past the last key block.

    Blocks outside are seen by none of the queries. With segments in any order the range
    holds every block that is seen; where they are sorted, about no other.

    Args:
      rules: the call's.
      q_segments: int32 [B, Tq] or None.
      kv_segments: int32 [B, Tk] or None.

    Returns:
      int32 [R, Nq] twice; equal where a block of queries sees nothing.
    """
    return _first_and_end(_blocks_that_meet(rules, q_segments, kv_segments))


def query_ranges(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> tuple[Array, Array]:
    """Return, for each block of keys, the range of query blocks that see some of it.

    Takes what `key_ranges` takes and returns int32 [R, Nk] twice.
    """
    met = _blocks_that_meet(rules, q_segments, kv_segments)
    return _first_and_end(jnp.swapaxes(met, 1, 2))


def key_block_ranges(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> Array:
    """Return which key blocks each block of queries sees, and which of them whole.

    Takes what `key_ranges` takes.

    Returns:
      int32 [R, Nq, 4]: the first block seen, the first and one past the last of those
      that every query sees whole, one past the last seen. Where none is seen whole the
      two in the middle are the first.
    """
    met = _blocks_that_meet(rules, q_segments, kv_segments)
    return _three_parts(met, _blocks_seen_whole(rules, q_segments, kv_segments))


def query_block_ranges(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> Array:
    """Return `key_block_ranges` with queries and keys exchanged, int32 [R, Nk, 4]."""
    met = _blocks_that_meet(rules, q_segments, kv_segments)
    whole = _blocks_seen_whole(rules, q_segments, kv_segments)
    return _three_parts(*(jnp.swapaxes(x, 1, 2) for x in (met, whole)))


def leading_full_blocks(rules: Rules) -> np.ndarray:
    """Return how many key blocks, from the first, every query of a block sees whole.

    Without segments only. int32 [Nq].
    """
    first_query = np.arange(rules.blocks_q) * rules.block_q + rules.offset
    whole = np.full(rules.blocks_q, rules.keys // rules.block_k)
    if rules.causal:
        whole = np.minimum(whole, np.maximum(first_query + 1, 0) // rules.block_k)
    return whole.astype(np.int32)


def pairs(rules: Rules) -> int:
    """Return how many pairs of query and key are allowed without segments."""
    if not rules.causal:
        return rules.queries * rules.keys
    seen = np.arange(rules.queries) + rules.offset + 1
    return int(np.clip(seen, 0, rules.keys).sum())


def _blocks_that_meet(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> Array:
    """Return bool [R, Nq, Nk]."""
    shape = (1, rules.blocks_q, rules.blocks_k)
    met = np.ones(shape, bool)
    if rules.causal:
        last_query = (np.arange(1, rules.blocks_q + 1) * rules.block_q).clip(
            max=rules.queries
        ) - 1
        first_key = np.arange(rules.blocks_k) * rules.block_k
        met &= first_key[None, :] <= last_query[:, None] + rules.offset
    if q_segments is None:
        return jnp.asarray(met)
    low_q, high_q = _extremes(q_segments, rules.blocks_q, rules.block_q)
    low_k, high_k = _extremes(kv_segments, rules.blocks_k, rules.block_k)
    return (
        jnp.asarray(met)
        & (low_q[:, :, None] <= high_k[:, None, :])
        & (low_k[:, None, :] <= high_q[:, :, None])
    )


def _blocks_seen_whole(
    rules: Rules, q_segments: Array | None, kv_segments: Array | None
) -> Array:
    """Return bool [R, Nq, Nk]: no query of the one misses a key of the other."""
    shape = (1, rules.blocks_q, rules.blocks_k)
    whole = np.ones(shape, bool)
    last_key = (np.arange(rules.blocks_k) + 1) * rules.block_k - 1
    if rules.causal:
        first_query = np.arange(rules.blocks_q) * rules.block_q + rules.offset
        whole &= last_key[None, :] <= first_query[:, None]
    if q_segments is None:
        return jnp.asarray(whole & (last_key < rules.keys))
    of_q = _only_segment(q_segments, rules.blocks_q, rules.block_q, other=0)
    of_k = _only_segment(kv_segments, rules.blocks_k, rules.block_k, other=-1)
    return jnp.asarray(whole) & (of_q[:, :, None] == of_k[:, None, :])


def _only_segment(segments: Array, blocks: int, size: int, other: int) -> Array:
    """Return the segment of each block, or `other` if it has several or padding."""
    parts = pad_blocks(jnp.maximum(segments, 0), blocks, size, 1)
    parts = parts.reshape(-1, blocks, size)
    low, high = jnp.min(parts, axis=-1), jnp.max(parts, axis=-1)
    return jnp.where((low == high) & (low > 0), low, other)


def _extremes(segments: Array, blocks: int, size: int) -> tuple[Array, Array]:
    """Return least and greatest positive segment a block; empty blocks meet no other."""
    parts = pad_blocks(segments, blocks, size, 1).reshape(-1, blocks, size)
    nothing = jnp.iinfo(jnp.int32).max
    low = jnp.min(jnp.where(parts > 0, parts, nothing), axis=-1)
    return low, jnp.max(jnp.maximum(parts, 0), axis=-1)


def _first_and_end(met: Array) -> tuple[Array, Array]:
    count = met.shape[-1]
    some = jnp.any(met, axis=-1)
    first = jnp.argmax(met, axis=-1)
    end = count - jnp.argmax(met[..., ::-1], axis=-1)
    return (
        jnp.where(some, first, 0).astype(jnp.int32),
        jnp.where(some, end, 0).astype(jnp.int32),
    )


def _three_parts(met: Array, whole: Array) -> Array:
    """Return int32 [R, N, 4] from bool [R, N, M] twice."""
    first, end = _first_and_end(met)
    some = jnp.any(whole, axis=-1)
    start = jnp.where(some, jnp.argmax(whole, axis=-1), first)
    index = jnp.arange(whole.shape[-1])
    past = ~whole & (index >= start[..., None])
    stop = jnp.where(jnp.any(past, axis=-1), jnp.argmax(past, axis=-1), whole.shape[-1])
    stop = jnp.where(some, stop, start)
    return jnp.stack([first, start, stop, end], axis=-1).astype(jnp.int32)
