"""The TPU kernel: a list of the blocks that hold keys, walked once.

Dimension letters: B sequences, T cache capacity, H query heads, K key-value heads, D head
size, N keys of a block, P parts of the batch.

The cache is read where it lies, [B, T, K, D], in blocks [N, K, D] that are folded to
[N K, D]: keys of all heads in one matrix, so that one product with the queries of all
heads [H, D] scores the block. Only every K-th score belongs to the query's own head; the
others get a bias of -1e30. The waste is arithmetic that the memory traffic hides (see
docs/decode_attention.md), what it saves is a transposed cache, strided loads and products
of a few rows each.

The grid has no axis of cache positions. XLA writes from the lengths the list of (sequence,
block) pairs that are to be read, and the grid is as long as that list: blocks beyond a
length are neither fetched nor computed nor stepped over, and the fetch of one sequence's
first block overlaps the last block of the sequence before.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array

MASKED = -1e30
"""Finite, so that a masked score less a masked maximum is not NaN."""

_BLOCK_BYTES = 1 << 19
"""Aimed size of a block of keys: long transfers, and little read beyond a length."""

_SCORE_ELEMENTS = 1 << 17
"""Scores of a block, H N K, that are kept in vector memory at once."""

_PARTS = 2
"""v4 and v5p run two cores on one program; on other chips the parts follow each other."""


class Schedule(NamedTuple):
    """Which block of which sequence each step of the grid works on.

    Attributes:
      steps: int32 [P], entries of a part that count.
      sequence: int32 [P, S], index into the batch.
      block: int32 [P, S], index of the block within the sequence.
    """

    steps: Array
    sequence: Array
    block: Array


def block_keys(heads: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Return N, a power of two from 16 to 1,024, for a cache of T >= N."""
    lanes = -(-head_dim // 128) * 128
    keys = _BLOCK_BYTES // (kv_heads * lanes * itemsize)
    keys = min(keys, _SCORE_ELEMENTS // (heads * kv_heads), 1024)
    return max(16, 1 << (max(keys, 1).bit_length() - 1))


def vmem_bytes(q: Array, cache: Array, keys: int) -> int:
    """Return the vector memory that the kernel may use, bytes.

    Blocks of keys, values and queries are held twice, the second being filled while the
    first is read. The scores are held three times: scores, weights, and weights in the
    values' type.

    Args:
      q: [B, H, D].
      cache: [B, T, K, D], keys or values.
      keys: N.
    """
    _, heads, dim = q.shape
    kv_heads = cache.shape[2]
    lanes = -(-dim // 128) * 128
    # float8 and int8 are widened before the products
    rows = keys * (-(-kv_heads // 8) * 8)
    blocks = 2 * 2 * rows * lanes * cache.dtype.itemsize
    widened = 2 * rows * lanes * q.dtype.itemsize
    scores = 4 * -(-heads // 8) * 8 * -(-keys * kv_heads // 128) * 128 * 4
    small = 8 * -(-heads // 8) * 8 * (lanes + 128) * 4
    return blocks + widened + scores + small + (1 << 20)


def schedule(lengths: Array, keys: int, blocks: int, parts: int) -> Schedule:
    """Return the steps that read every block that holds a key, sequence by sequence.

    Args:
      lengths: int32 [B].
      keys: N.
      blocks: blocks of a whole sequence.
      parts: P, 1 or 2 and not above B, so that every part has a sequence.
    """
    batch = lengths.shape[0]
    share = -(-batch // parts)
    needed = (lengths + (keys - 1)) // keys
    needed = jnp.pad(needed, (0, parts * share - batch)).reshape(parts, share)
    ends = jnp.cumsum(needed, axis=1)
    # an entry for each step a part could need; beyond its own the last one is repeated
    step = jnp.minimum(jnp.arange(share * blocks), jnp.maximum(ends[:, -1:] - 1, 0))
    index = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(ends, step)
    index = jnp.minimum(index, share - 1)
    begin = jnp.take_along_axis(ends - needed, index, axis=1)
    first = share * np.arange(parts)[:, None]
    sequence = jnp.minimum(first + index, batch - 1)
    as_int = functools.partial(jnp.asarray, dtype=jnp.int32)
    return Schedule(*map(as_int, (ends[:, -1], sequence, step - begin)))


def head_bias(heads: int, kv_heads: int, keys: int) -> np.ndarray:
    """Return 0 where a query head may look and -1e30 elsewhere, float32 [H, N K]."""
    own = np.arange(heads)[:, None] // (heads // kv_heads)
    other = np.arange(keys * kv_heads)[None, :] % kv_heads
    return np.where(own == other, 0.0, MASKED).astype(np.float32)


def _precision(dtype: jnp.dtype) -> jax.lax.Precision:
    exact = dtype == jnp.float32
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


class _Refs(NamedTuple):
    """What a step of the kernel sees; None for what the call does without.

    Attributes:
      q: [1, H, D].
      k, v: [1, N, K, D].
      scale: float32 [1, H, 1].
      bias: float32 [H, N K].
      out: [1, H, D].
      lse: float32 [1, H, 128].
      peak, total: float32 [H, 1], running maximum and sum of weights.
      sums: float32 [H, D], running sum of weighted values.
    """

    q: Any
    k: Any
    v: Any
    scale: Any
    bias: Any
    out: Any
    lse: Any
    peak: Any
    total: Any
    sums: Any


def _kernel(
    steps_ref: Any,
    sequence_ref: Any,
    block_ref: Any,
    lengths_ref: Any,
    *given: Any,
    names: tuple[str, ...],
    softmax_scale: float,
    logit_cap: float | None,
) -> None:
    refs = _Refs(**dict.fromkeys(_Refs._fields) | dict(zip(names, given, strict=True)))
    part, step = pl.program_id(0), pl.program_id(1)
    _, keys, kv_heads, dim = refs.k.shape
    dtype = refs.q.dtype
    begin = block_ref[part, step] * keys
    left = lengths_ref[sequence_ref[part, step]] - begin
    counts = step < steps_ref[part]

    @pl.when(counts & (begin == 0))
    def _():
        refs.peak[...] = jnp.full_like(refs.peak, MASKED)
        refs.total[...] = jnp.zeros_like(refs.total)
        refs.sums[...] = jnp.zeros_like(refs.sums)

    def add(partial: bool) -> None:
        k = refs.k[0].reshape(keys * kv_heads, dim).astype(dtype)
        v = refs.v[0].reshape(keys * kv_heads, dim).astype(dtype)
        dot = functools.partial(
            jax.lax.dot_general,
            precision=_precision(dtype),
            preferred_element_type=jnp.float32,
        )
        scores = dot(refs.q[0], k, (((1,), (1,)), ((), ()))) * softmax_scale
        if refs.scale is not None:
            scores = scores * refs.scale[0]
        if logit_cap is not None:
            scores = logit_cap * jnp.tanh(scores / logit_cap)
        if refs.bias is not None:
            scores = scores + refs.bias[...]
        if partial:
            # a cache may hold anything beyond a length, NaN too: 0 times that is not 0
            column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            scores = jnp.where(column < left * kv_heads, scores, MASKED)
            row = jax.lax.broadcasted_iota(jnp.int32, v.shape, 0)
            v = jnp.where(row < left * kv_heads, v, jnp.zeros_like(v))
        before = refs.peak[...]
        peak = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.exp(scores - peak)
        shrink = jnp.exp(before - peak)
        refs.peak[...] = peak
        refs.total[...] = refs.total[...] * shrink + weights.sum(axis=1, keepdims=True)
        added = dot(weights.astype(dtype), v, (((1,), (0,)), ((), ())))
        refs.sums[...] = refs.sums[...] * shrink + added

    pl.when(counts & (left >= keys))(lambda: add(partial=False))
    pl.when(counts & (left < keys))(lambda: add(partial=True))

    @pl.when(counts & (left <= keys))
    def _():
        refs.out[0] = (refs.sums[...] / refs.total[...]).astype(refs.out.dtype)
        if refs.lse is not None:
            lse = refs.peak[...] + jnp.log(refs.total[...])
            refs.lse[0] = jnp.broadcast_to(lse, refs.lse.shape[1:])


def _of_sequence(*shape: int) -> pl.BlockSpec:
    """Return blocks of an array [B, *shape], of the sequence at work."""
    return pl.BlockSpec(
        (1, *shape), lambda part, i, _n, seq, _b, _l: (seq[part, i], 0, 0)
    )


def _of_cache(*shape: int) -> pl.BlockSpec:
    """Return blocks [1, N, K, D] of a cache, in the order of the schedule."""
    return pl.BlockSpec(
        (1, *shape),
        lambda part, i, _n, seq, blk, _l: (seq[part, i], blk[part, i], 0, 0),
    )


def _inputs(
    q: Array, k_cache: Array, v_cache: Array, k_scale: Array | None, keys: int
) -> dict[str, tuple[Array, pl.BlockSpec]]:
    """Return what the kernel reads, by its name in `_Refs`, with its blocks."""
    _, heads, dim = q.shape
    kv_heads = k_cache.shape[2]
    given = {
        "q": (q, _of_sequence(heads, dim)),
        "k": (k_cache, _of_cache(keys, kv_heads, dim)),
        "v": (v_cache, _of_cache(keys, kv_heads, dim)),
    }
    if k_scale is not None:
        scale = jnp.repeat(k_scale, heads // kv_heads, axis=1)[..., None]
        given["scale"] = (scale.astype(jnp.float32), _of_sequence(heads, 1))
    if kv_heads > 1:
        bias = jnp.asarray(head_bias(heads, kv_heads, keys))
        given["bias"] = (bias, pl.BlockSpec(bias.shape, lambda *_: (0, 0)))
    return given


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
    interpret: Any = False,
) -> tuple[Array, Array | None]:
    """Return attention of one query a sequence, [B, H, D], and its lse, float32 [B, H].

    Args:
      q: [B, H, D], bfloat16 or float32; products are in this type.
      k_cache, v_cache: [B, T, K, D], q's type, or int8 or float8.
      lengths: int32 [B], from 0 to T.
      softmax_scale: factor of the scores.
      k_scale: float32 [B, K], further factor of the scores; None for 1.
      logit_cap: cap of the scores, cap tanh(score / cap); None for none.
      out_dtype: of the result; None for q's.
      return_lse: whether lse is wanted; else it is None. It is -inf at length 0.
      keys: N; None for `block_keys`.
      interpret: False, or `pltpu.InterpretParams` to run without a TPU.
    """
    batch, heads, dim = q.shape
    _, capacity, kv_heads, _ = k_cache.shape
    if keys is None:
        keys = block_keys(heads, kv_heads, dim, k_cache.dtype.itemsize)
    keys = min(keys, capacity)
    parts = min(_PARTS, batch)
    plan = schedule(lengths, keys, -(-capacity // keys), parts)
    given = _inputs(q, k_cache, v_cache, k_scale, keys)
    out_dtype = jnp.dtype(out_dtype or q.dtype)
    made = {"out": (jax.ShapeDtypeStruct(q.shape, out_dtype), _of_sequence(heads, dim))}
    if return_lse:
        shape = jax.ShapeDtypeStruct((batch, heads, 128), jnp.float32)
        made["lse"] = (shape, _of_sequence(heads, 128))
    arrays, in_specs = zip(*given.values(), strict=True)
    shapes, out_specs = zip(*made.values(), strict=True)
    kept = {"peak": (heads, 1), "total": (heads, 1), "sums": (heads, dim)}
    results = pl.pallas_call(
        functools.partial(
            _kernel,
            names=(*given, *made, *kept),
            softmax_scale=softmax_scale,
            logit_cap=logit_cap,
        ),
        out_shape=shapes,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(parts, jnp.maximum(jnp.max(plan.steps), 1)),
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(s, jnp.float32) for s in kept.values()],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=vmem_bytes(q, k_cache, keys),
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * heads * dim * batch * capacity * kv_heads,
            transcendentals=heads * batch * capacity * kv_heads,
            bytes_accessed=2 * k_cache.size * k_cache.dtype.itemsize,
        ),
        interpret=interpret,
        name="decode_attention",
    )(*plan, lengths, *arrays)
    # nothing was written for sequences without a key
    empty = (lengths == 0)[:, None]
    out = jnp.where(empty[..., None], jnp.zeros((), out_dtype), results[0])
    if not return_lse:
        return out, None
    return out, jnp.where(empty, -jnp.inf, results[1][..., 0])
