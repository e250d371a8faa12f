"""Decoding for Hopper: the flash kernel with the query heads of a key head as its rows.

A product of `wgmma` has 64 rows, more than any group of query heads; the arithmetic that
is wasted on the others costs less than reading the cache. Where sequences and heads are
too few for the chip, each cache is read in parts, whose results are merged by their
log-normalisers.
"""

import jax
import jax.numpy as jnp
from soler1_jax.kernels.flash_attention import gpu
from soler1_jax.kernels.flash_attention.rules import Rules

Array = jax.Array

MAX_SIZE = gpu.MAX_SIZE

_BLOCKS_WANTED = 264
"""Blocks of threads that keep the 132 multiprocessors of an H100 busy."""


def attend(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    *,
    softmax_scale: float,
    logit_cap: float | None,
) -> tuple[Array, Array]:
    """Return attention [B, Hq, D] and its log-normaliser float32 [B, Hq].

    Takes what `xla.attend` takes, in bfloat16.
    """
    batch, heads, size = q.shape
    capacity, key_heads = k_cache.shape[1:3]
    group = heads // key_heads
    block = 128 if size <= 128 else 64
    parts = _parts(batch * key_heads, capacity, block)
    length = capacity // parts
    rows_held = -(-group // 8) * 8
    rules = Rules(
        queries=rows_held,
        keys=length,
        causal=False,
        softmax_scale=softmax_scale,
        logit_cap=logit_cap,
        block_q=gpu.ROWS,
        block_k=block,
    )
    rows = jnp.swapaxes(q.reshape(batch, key_heads, group, size), 1, 2)
    rows = jnp.repeat(rows, parts, axis=0)
    keys, values = (
        x.reshape(batch * parts, length, key_heads, size) for x in (k_cache, v_cache)
    )
    start = jnp.arange(parts) * length
    of_part = jnp.clip(lengths[:, None] - start, 0, length).reshape(-1)
    valid = (jnp.arange(length) < of_part[:, None]).astype(jnp.int32)
    ones = jnp.ones((batch * parts, gpu.ROWS), jnp.int32)
    rows = jnp.pad(rows, ((0, 0), (0, rows_held - group), (0, 0), (0, 0)))
    args = gpu.operands(rules, rows, keys, values, ones, valid)
    args = args._replace(queries=gpu.pad(1, rows_held, rows))
    whole, end = of_part // block, jnp.maximum(-(-of_part // block), 1)
    ranges = jnp.stack([0 * whole, 0 * whole, whole, end], axis=-1)[:, None]
    out, lse = gpu.attend(rules, args, ranges.astype(jnp.int32))
    out = out[:, :group, :, :size].reshape(batch, parts, group, key_heads, size)
    lse = lse[:, :, :group].reshape(batch, parts, key_heads, group)
    out, lse = _merge(jnp.moveaxis(out, 2, 3), lse)
    return out.reshape(batch, heads, size), lse.reshape(batch, heads)


def _parts(pairs: int, capacity: int, block: int) -> int:
    """Return into how many parts a cache is read."""
    parts = 1
    while pairs * parts < _BLOCKS_WANTED and capacity % (2 * parts * block) == 0:
        parts *= 2
    return parts


def _merge(out: Array, lse: Array) -> tuple[Array, Array]:
    """Return the results over all parts, which are the second axis."""
    if out.shape[1] == 1:
        return out[:, 0], lse[:, 0]
    top = jnp.max(lse, axis=1, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0)
    weights = jnp.exp(lse - top)
    total = jnp.sum(weights, axis=1)
    some = jnp.where(total > 0, total, 1)
    mixed = jnp.sum(out.astype(jnp.float32) * weights[..., None], axis=1)
    lse = jnp.where(total > 0, top[:, 0] + jnp.log(some), -jnp.inf)
    return (mixed / some[..., None]).astype(out.dtype), lse
