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
from soler1_jax.kernels.flash_attention import gpu
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
    held = _WARPGROUPS * gpu.ROWS
    # of those that pass by; what registers and shared memory have room for
    passing = 128 if q.shape[-1] <= 64 else 64
    of_queries = dataclasses.replace(rules, block_q=held, block_k=passing)
    of_keys = dataclasses.replace(rules, block_q=passing, block_k=held)
    arguments = (q, k, v, q_segments, kv_segments)
    segments = (q_segments, kv_segments)
    rows = (dout, lse, delta)
    dq = _query_gradient(
        of_queries,
        gpu.operands(of_queries, *arguments),
        rules_lib.key_block_ranges(of_queries, *segments),
        _rows(of_queries, *rows),
    )
    dk, dv = _key_gradients(
        of_keys,
        gpu.operands(of_keys, *arguments),
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
        for x in (lse * gpu.LOG2E, delta)
    )
    return _Rows(gpu.pad(rules.blocks_q, rules.block_q, dout), lse, delta)


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
    held = gpu.tile((_WARPGROUPS, gpu.ROWS, size), dtype)
    number = plgpu.SMEM((_WARPGROUPS, gpu.ROWS), jnp.float32)
    ring = gpu.tile((_STAGES, rules.block_k, size), dtype)
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
    bounds = gpu.read_bounds(ranges, row, block)

    @pl.when(wg < _WARPGROUPS)
    def _compute():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        query = block * rules.block_q + wg * gpu.ROWS
        span = pl.ds(query, gpu.ROWS)
        sources = (
            q.at[batch, span, head],
            dout.at[batch, span, head],
            lse.at[batch, head, span],
            delta.at[batch, head, span],
        )
        mine = [tile.at[wg] for tile in tiles]
        for source, tile, barrier in zip(sources, mine, once, strict=True):
            plgpu.copy_gmem_to_smem(source, tile, barrier.at[wg])
        for barrier in once:
            plgpu.barrier_wait(barrier.at[wg])
        my_lse, my_delta = (gpu.load(tile, gpu.ROW) for tile in mine[2:])
        mask = gpu.Mask(rules, 0, segments, batch)
        shape = (gpu.ROWS, rules.block_k)

        def step(i, total, *, mask_it: bool):
            slot = lax.rem(i - bounds[0], jnp.int32(_STAGES))
            keys, values = (ring.at[slot] for ring in rings)

            def weigh(x):
                x, factor, slope = gpu.logits(rules, x)
                if mask_it:
                    x = mask.apply(x, query, i * rules.block_k)
                weights = jnp.exp2(x * factor - gpu.across(my_lse, shape))
                return (weights,) if slope is None else (weights, slope)

            for barrier in filled:
                plgpu.barrier_wait(barrier.at[slot])
            factors, dweights = gpu.multiply_two(
                (mine[0], keys.transpose((1, 0))),
                (mine[1], values.transpose((1, 0))),
                shape,
                weigh,
            )
            plgpu.barrier_arrive(freed[1].at[slot])
            dx = dweights - gpu.across(my_delta, shape)
            for factor in factors:
                dx *= factor
            total = gpu.add_product(total, dx.astype(q.dtype), keys)
            plgpu.barrier_arrive(freed[0].at[slot])
            return total

        total = gpu.loops(
            bounds,
            lambda i, total, mask: step(i, total, mask_it=mask),
            gpu.zeros((gpu.ROWS, q.shape[-1])),
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

        def where(i):
            start = (bounds[0] + i) * rules.block_k
            return batch, pl.ds(start, rules.block_k), key_head

        gpu.fill_ring(
            bounds[3] - bounds[0],
            tuple(
                (source, where, *rest)
                for source, *rest in zip((k, v), rings, filled, freed, strict=True)
            ),
        )


def _key_gradients(rules, args, ranges, rows) -> tuple[Array, Array]:
    batch, _, heads, size = args.keys.shape
    dtype = args.keys.dtype
    held = gpu.tile((_WARPGROUPS, gpu.ROWS, size), dtype)
    ring = gpu.tile((_STAGES, rules.block_q, size), dtype)
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
    bounds = gpu.read_bounds(ranges, row, block)
    steps = bounds[3] - bounds[0]

    @pl.when(wg < _WARPGROUPS)
    def _compute():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        key = block * rules.block_k + wg * gpu.ROWS
        mine = (batch, pl.ds(key, gpu.ROWS), head)
        keys, values = (tile.at[wg] for tile in tiles)
        for source, tile, barrier in zip((k, v), (keys, values), once, strict=True):
            plgpu.copy_gmem_to_smem(source.at[mine], tile, barrier.at[wg])
        for barrier in once:
            plgpu.barrier_wait(barrier.at[wg])
        mask = gpu.Mask(rules, 1, segments, batch)
        shape = (gpu.ROWS, rules.block_q)

        def step(member, i, totals, *, mask_it: bool):
            total_k, total_v = totals
            slot = lax.rem(member * steps + i - bounds[0], jnp.int32(_STAGES))
            queries, douts, lses, deltas = (ring.at[slot] for ring in rings)

            def weigh(x):
                x, factor, slope = gpu.logits(rules, x)
                if mask_it:
                    x = mask.apply(x, i * rules.block_q, key)
                lse_here = gpu.down(gpu.load(lses, gpu.COLUMN), shape)
                weights = jnp.exp2(x * factor - lse_here)
                return (weights,) if slope is None else (weights, slope)

            for barrier in filled:
                plgpu.barrier_wait(barrier.at[slot])
            factors, dweights = gpu.multiply_two(
                (keys, queries.transpose((1, 0))),
                (values, douts.transpose((1, 0))),
                shape,
                weigh,
            )

            def dlogits():
                delta_here = gpu.down(gpu.load(deltas, gpu.COLUMN), shape)
                dx = dweights - delta_here
                for factor in factors:
                    dx *= factor
                return dx.astype(q.dtype)

            total_v, total_k = gpu.add_two_products(
                (total_v, total_k),
                (factors[0].astype(q.dtype), douts),
                (dlogits, queries),
            )
            for barrier in freed[1:]:
                plgpu.barrier_arrive(barrier.at[slot])
            plgpu.barrier_arrive(freed[0].at[slot])
            return total_k, total_v

        def of_member(member, totals):
            return gpu.loops(
                bounds,
                lambda i, totals, mask: step(member, i, totals, mask_it=mask),
                totals,
                masked=(rules.causal or bool(segments), _masked(rules, segments)[1]),
            )

        zeros = gpu.zeros((gpu.ROWS, q.shape[-1]))
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

        def place(i):
            member = lax.div(i, steps)
            start = (bounds[0] + i - member * steps) * rules.block_q
            return head * group + member, pl.ds(start, rules.block_q)

        def of_tokens(i):
            query_head, span = place(i)
            return batch, span, query_head

        def of_heads(i):
            query_head, span = place(i)
            return batch, query_head, span

        wheres = (of_tokens, of_tokens, of_heads, of_heads)
        gpu.fill_ring(
            steps * group,
            tuple(
                zip((q, dout, lse, delta), wheres, rings, filled, freed, strict=True)
            ),
        )
