"""The plain JAX implementation: blocks of the cache in place, up to a length.

Dimension letters: B sequences, T cache capacity, H query heads, K key-value heads, D head
size, N keys of a block.

On a CPU the sequences follow each other and each stops at its own length. Elsewhere all
sequences advance together, so that a step is large enough for the device, and stop at the
longest.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

MASKED = -1e30

_BLOCK_BYTES = 1 << 17
"""Aimed size of a sequence's block in float32: keys and values stay in a CPU core's caches."""


def block_keys(kv_heads: int, head_dim: int) -> int:
    """Return N, from 16 to 64."""
    keys = _BLOCK_BYTES // (kv_heads * head_dim * 4)
    return min(max(keys, 16), 64)


def _block(cache: Array, at: tuple, rows: int, keys: int) -> Array:
    """Return float32 [rows, N, K, D] of a cache."""
    block = lax.dynamic_slice(cache, (*at, 0, 0), (rows, keys, *cache.shape[2:]))
    return block.astype(jnp.float32)


def _attend_rows(
    q: Array,
    caches: tuple[Array, Array],
    lengths: Array,
    first: Array | int,
    keys: int,
    cap: float | None,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Attend with some sequences that lie together in the batch.

    XLA's CPU compiler cannot slice bfloat16 and float8: it widens the operand of the
    slice, which is the whole cache, and moves that out of the loop as invariant. So the
    caches travel through the loops behind a barrier, which leaves nothing invariant; the
    widening then is fused with the slice.

    Args:
      q: float32 [rows, K, H / K, D], scaled.
      caches: keys and values of the whole batch, [B, T, K, D].
      lengths: int32 [rows].
      first: the first sequence's index.
      keys: N.
      cap: of the scores.

    Returns:
      The caches again, for the next loop; float32 [rows, K, H / K, D] and lse, float32
      [rows, K, H / K].
    """
    rows, capacity = q.shape[0], caches[0].shape[1]
    einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

    def add(index: Array, carry: tuple) -> tuple:
        caches, before, total, sums = carry
        caches = lax.optimization_barrier(caches)
        # the last block ends where the cache ends; what it repeats is masked
        begin = jnp.minimum(index * keys, capacity - keys)
        k, v = (_block(cache, (first, begin), rows, keys) for cache in caches)
        position = begin + jnp.arange(keys)
        seen = (position >= index * keys) & (position < lengths[:, None])
        scores = einsum("bkgd,btkd->bkgt", q, k)
        if cap is not None:
            scores = cap * jnp.tanh(scores / cap)
        scores = jnp.where(seen[:, None, None], scores, MASKED)
        # a cache may hold anything beyond a length, NaN too: 0 times that is not 0
        v = jnp.where(seen[..., None, None], v, 0)
        peak = jnp.maximum(before, jnp.max(scores, axis=-1))
        weights = jnp.where(seen[:, None, None], jnp.exp(scores - peak[..., None]), 0)
        shrink = jnp.exp(before - peak)
        sums = sums * shrink[..., None] + einsum("bkgt,btkd->bkgd", weights, v)
        return caches, peak, total * shrink + jnp.sum(weights, axis=-1), sums

    zeros = jnp.zeros(q.shape[:3])
    start = (caches, jnp.full_like(zeros, MASKED), zeros, jnp.zeros(q.shape))
    blocks = (jnp.max(lengths) + (keys - 1)) // keys
    caches, peak, total, sums = lax.fori_loop(0, blocks, add, start)
    lse = jnp.where(total > 0, peak + jnp.log(total), -jnp.inf)
    return caches, (sums / jnp.where(total > 0, total, 1.0)[..., None], lse)


def attend(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    *,
    softmax_scale: float,
    k_scale: Array | None = None,
    logit_cap: float | None = None,
    out_dtype: jnp.dtype | None = None,
    return_lse: bool = False,
    keys: int | None = None,
) -> tuple[Array, Array | None]:
    """Return attention and lse; arguments as for `tpu.attend`.

    Everything is computed in float32.
    """
    batch, heads, dim = q.shape
    capacity, kv_heads = k_cache.shape[1:3]
    keys = min(keys or block_keys(kv_heads, dim), capacity)
    grouped = q.astype(jnp.float32).reshape(batch, kv_heads, -1, dim) * softmax_scale
    if k_scale is not None:
        grouped = grouped * k_scale.astype(jnp.float32)[:, :, None, None]
    rows = functools.partial(_attend_rows, keys=keys, cap=logit_cap)

    def together(q: Array, caches: tuple, lengths: Array) -> tuple[Array, Array]:
        return rows(q, caches, lengths, 0)[1]

    def in_turn(q: Array, caches: tuple, lengths: Array) -> tuple[Array, Array]:
        def one(caches: tuple, item: tuple) -> tuple:
            q, length, index = item
            caches = lax.optimization_barrier(caches)
            caches, found = rows(q[None], caches, length[None], index)
            return caches, jax.tree.map(lambda x: x[0], found)

        return lax.scan(one, caches, (q, lengths, jnp.arange(batch)))[1]

    out, lse = lax.platform_dependent(
        grouped, (k_cache, v_cache), lengths, cpu=in_turn, default=together
    )
    out = out.reshape(q.shape).astype(out_dtype or q.dtype)
    return out, lse.reshape(batch, heads) if return_lse else None
