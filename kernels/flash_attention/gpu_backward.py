"""Attention for Hopper: the backward kernels.

As on TPU, two passes over the pairs of blocks: one holds a block of queries and sums its
gradient over blocks of keys, one holds a block of keys and sums theirs over query heads
and blocks of queries. The second keeps its products transposed, keys down and queries
across, so that weights go from registers into the next product as they are.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from soler1_jax.kernels.flash_attention import gpu_parts as parts
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention.rules import Rules

Array = jax.Array

MAX_SIZE = 128
"""Greatest head size: two sums a key must stay in registers."""

_STAGES = 2
_WARPGROUPS = 2
_REGISTERS = (232, 40)


class _Rows(NamedTuple):
    """What the backward pass knows of each query.

    Attributes:
      dout: [B, T, Hq, D], gradient of the output.
      lse, delta: float32 [B, Hq, T].
    """

    dout: Array
    lse: Array
    delta: Array


def backward(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
    lse: Array,
    dout: Array,
    delta: Array,
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v, which `xla.backward` takes too."""
    held = _WARPGROUPS * parts.ROWS
    # of those that pass by; what registers and shared memory have room for
    passing = 128 if q.shape[-1] <= 64 else 64
    of_queries = dataclasses.replace(rules, block_q=held, block_k=passing)
    of_keys = dataclasses.replace(rules, block_q=passing, block_k=held)
    arguments = (q, k, v, q_segments, kv_segments)
    segments = (q_segments, kv_segments)
    rows = (dout, lse, delta)
    dq = _query_gradient(
        of_queries,
        parts.operands(of_queries, *arguments),
        rules_lib.key_block_ranges(of_queries, *segments),
        _rows(of_queries, *rows),
    )
    dk, dv = _key_gradients(
        of_keys,
        parts.operands(of_keys, *arguments),
        rules_lib.query_block_ranges(of_keys, *segments),
        _rows(of_keys, *rows),
    )
    size = q.shape[-1]
    dk, dv = dk[:, : rules.keys, :, :size], dv[:, : rules.keys, :, :size]
    return dq[:, : rules.queries, :, :size], dk, dv


def _rows(rules: Rules, dout: Array, lse: Array, delta: Array) -> _Rows:
    # a padded query has dout and delta 0, and with lse 0 weights of 1: no harm
    lse, delta = (
        rules_lib.pad_blocks(jnp.swapaxes(x, 1, 2), rules.blocks_q, rules.block_q, 2)
        for x in (lse * parts.LOG2E, delta)
    )
    return _Rows(parts.pad(rules.blocks_q, rules.block_q, dout), lse, delta)


def _masked(rules: Rules, segments: tuple) -> tuple[bool, bool]:
    """Return whether blocks before and after those seen whole need a mask."""
    ragged = rules.keys % rules.block_k > 0
    return bool(segments), bool(segments) or rules.causal or ragged


def _call(kernel, grid, out_type, scratch_types):
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=scratch_types,
        grid=grid,
        grid_names=("head", "block", "batch"),
        num_threads=_WARPGROUPS + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )


def _query_gradient(rules, args, ranges, rows) -> Array:
    batch, _, heads, size = args.queries.shape
    dtype = args.queries.dtype
    held = parts.tile((_WARPGROUPS, parts.ROWS, size), dtype)
    number = plgpu.SMEM((_WARPGROUPS, parts.ROWS), jnp.float32)
    ring = parts.tile((_STAGES, rules.block_k, size), dtype)
    filled = plgpu.Barrier(num_barriers=_STAGES)
    freed = plgpu.Barrier(num_arrivals=_WARPGROUPS, num_barriers=_STAGES)
    once = plgpu.Barrier(num_barriers=_WARPGROUPS)
    return _call(
        functools.partial(_query_kernel, rules, args.group, bool(args.segments)),
        (heads, rules.blocks_q, batch),
        jax.ShapeDtypeStruct(args.queries.shape, dtype),
        (
            (held, held, number, number),
            (once,) * 4,
            (ring, ring),
            (filled, filled),
            (freed, freed),
        ),
    )(args.queries, args.keys, args.values, ranges, *args.segments, *rows)


def _query_kernel(rules, group, segmented, q, k, v, ranges, *refs) -> None:
    segments, refs = (refs[:2], refs[2:]) if segmented else ((), refs)
    dout, lse, delta, dq, tiles, once, rings, filled, freed = refs
    batch, head, wg = (lax.axis_index(name) for name in ("batch", "head", "wg"))
    block = rules.blocks_q - 1 - lax.axis_index("block")
    row = 0 if ranges.shape[0] == 1 else batch
    bounds = parts.read_bounds(ranges, row, block)

    @pl.when(wg < _WARPGROUPS)
    def _compute():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        query = block * rules.block_q + wg * parts.ROWS
        span = pl.ds(query, parts.ROWS)
        sources = (
            q.at[batch, span, head],
            dout.at[batch, span, head],
            lse.at[batch, head, span],
            delta.at[batch, head, span],
        )
        mine = [tile.at[wg] for tile in tiles]
        parts.fetch_once(sources, mine, [barrier.at[wg] for barrier in once])
        my_lse, my_delta = (parts.load(tile, parts.ROW) for tile in mine[2:])
        mask = parts.Mask(rules, 0, segments, batch)
        shape = (parts.ROWS, rules.block_k)

        def step(i, total, mask_it: bool):
            slot = lax.rem(i - bounds[0], jnp.int32(_STAGES))
            keys, values = (ring.at[slot] for ring in rings)

            def weigh(x):
                x, factor, slope = parts.logits(rules, x)
                if mask_it:
                    x = mask.apply(x, query, i * rules.block_k)
                weights = jnp.exp2(x * factor - parts.across(my_lse, shape))
                return (weights,) if slope is None else (weights, slope)

            for barrier in filled:
                plgpu.barrier_wait(barrier.at[slot])
            factors, dweights = parts.multiply_two(
                (mine[0], keys.transpose((1, 0))),
                (mine[1], values.transpose((1, 0))),
                shape,
                weigh,
            )
            plgpu.barrier_arrive(freed[1].at[slot])
            dx = dweights - parts.across(my_delta, shape)
            for factor in factors:
                dx *= factor
            total = parts.add_product(total, dx.astype(q.dtype), keys)
            plgpu.barrier_arrive(freed[0].at[slot])
            return total

        total = parts.loops(
            bounds,
            lambda i, total, mask: step(i, total, mask_it=mask),
            parts.zeros((parts.ROWS, q.shape[-1])),
            masked=_masked(rules, segments),
        )
        mine[0][...] = (total * rules.softmax_scale).astype(q.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(mine[0], dq.at[batch, span, head])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == _WARPGROUPS)
    def _fetch():
        plgpu.set_max_registers(_REGISTERS[1], action="decrease")
        key_head = lax.div(head, jnp.int32(group))
        streams = zip((k, v), rings, filled, freed, strict=True)
        parts.fetch_keys(rules, bounds, (batch, key_head), streams)


def _key_gradients(rules, args, ranges, rows) -> tuple[Array, Array]:
    batch, _, heads, size = args.keys.shape
    dtype = args.keys.dtype
    held = parts.tile((_WARPGROUPS, parts.ROWS, size), dtype)
    ring = parts.tile((_STAGES, rules.block_q, size), dtype)
    numbers = plgpu.SMEM((_STAGES, rules.block_q), jnp.float32)
    filled = plgpu.Barrier(num_barriers=_STAGES)
    freed = plgpu.Barrier(num_arrivals=_WARPGROUPS, num_barriers=_STAGES)
    once = plgpu.Barrier(num_barriers=_WARPGROUPS)
    return _call(
        functools.partial(_key_kernel, rules, args.group, bool(args.segments)),
        (heads, rules.blocks_k, batch),
        (jax.ShapeDtypeStruct(args.keys.shape, dtype),) * 2,
        (
            (held, held),
            (once, once),
            (ring, ring, numbers, numbers),
            (filled,) * 4,
            (freed,) * 4,
        ),
    )(args.queries, args.keys, args.values, ranges, *args.segments, *rows)


def _key_kernel(rules, group, segmented, q, k, v, ranges, *refs) -> None:
    segments, refs = (refs[:2], refs[2:]) if segmented else ((), refs)
    dout, lse, delta, dk, dv, tiles, once, rings, filled, freed = refs
    batch, head, wg = (lax.axis_index(name) for name in ("batch", "head", "wg"))
    block = lax.axis_index("block")
    row = 0 if ranges.shape[0] == 1 else batch
    bounds = parts.read_bounds(ranges, row, block)
    steps = bounds[3] - bounds[0]

    @pl.when(wg < _WARPGROUPS)
    def _compute():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        key = block * rules.block_k + wg * parts.ROWS
        mine = (batch, pl.ds(key, parts.ROWS), head)
        keys, values = (tile.at[wg] for tile in tiles)
        parts.fetch_once(
            (k.at[mine], v.at[mine]), (keys, values), [b.at[wg] for b in once]
        )
        mask = parts.Mask(rules, 1, segments, batch)
        shape = (parts.ROWS, rules.block_q)

        def step(member, i, totals, *, mask_it: bool):
            total_k, total_v = totals
            slot = lax.rem(member * steps + i - bounds[0], jnp.int32(_STAGES))
            queries, douts, lses, deltas = (ring.at[slot] for ring in rings)

            def weigh(x):
                x, factor, slope = parts.logits(rules, x)
                if mask_it:
                    x = mask.apply(x, i * rules.block_q, key)
                lse_here = parts.down(parts.load(lses, parts.COLUMN), shape)
                weights = jnp.exp2(x * factor - lse_here)
                return (weights,) if slope is None else (weights, slope)

            for barrier in filled:
                plgpu.barrier_wait(barrier.at[slot])
            factors, dweights = parts.multiply_two(
                (keys, queries.transpose((1, 0))),
                (values, douts.transpose((1, 0))),
                shape,
                weigh,
            )

            def dlogits():
                dx = dweights - parts.down(parts.load(deltas, parts.COLUMN), shape)
                for factor in factors:
                    dx *= factor
                return dx.astype(q.dtype)

            total_v, total_k = parts.add_two_products(
                (total_v, total_k),
                (factors[0].astype(q.dtype), douts),
                (dlogits, queries),
            )
            for barrier in freed:
                plgpu.barrier_arrive(barrier.at[slot])
            return total_k, total_v

        def of_member(member, totals):
            return parts.loops(
                bounds,
                lambda i, totals, mask: step(member, i, totals, mask_it=mask),
                totals,
                masked=(rules.causal or bool(segments), _masked(rules, segments)[1]),
            )

        zeros = parts.zeros((parts.ROWS, q.shape[-1]))
        total_k, total_v = lax.fori_loop(0, group, of_member, (zeros, zeros))
        keys[...] = (total_k * rules.softmax_scale).astype(k.dtype)
        values[...] = total_v.astype(v.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(keys, dk.at[mine])
        plgpu.copy_smem_to_gmem(values, dv.at[mine])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == _WARPGROUPS)
    def _fetch():
        plgpu.set_max_registers(_REGISTERS[1], action="decrease")
        streams = zip((q, dout, lse, delta), rings, filled, freed, strict=True)
        _fetch_queries(rules, group, bounds, (batch, head), tuple(streams))


def _fetch_queries(rules, group, bounds, at, streams) -> None:
    """Fetch the blocks of queries of all query heads of a key head, one after another.

    Args:
      rules: the call's.
      group: query heads of a key head.
      bounds: a row of `rules.query_block_ranges`.
      at: indices of the batch and of the key head.
      streams: what `parts.fill_ring` takes, without where; of queries, their output's
        gradients, log-normalisers and sums.
    """
    steps = bounds[3] - bounds[0]

    def place(i):
        member = lax.div(i, steps)
        start = (bounds[0] + i - member * steps) * rules.block_q
        return at[1] * group + member, pl.ds(start, rules.block_q)

    def of_tokens(i):
        query_head, span = place(i)
        return at[0], span, query_head

    def of_heads(i):
        query_head, span = place(i)
        return at[0], query_head, span

    wheres = (of_tokens, of_tokens, of_heads, of_heads)
    parts.fill_ring(
        steps * group,
        tuple(
            (source, where, *rest)
            for where, (source, *rest) in zip(wheres, streams, strict=True)
        ),
    )
