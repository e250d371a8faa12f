"""Attention for Hopper: the forward kernel.

A block of threads holds one block of queries of one head, a part of it in each of its
computing warpgroups; one more warpgroup fetches. Keys and values go through a ring of
buffers in shared memory, so that the fetches run ahead of the products; the products are
`wgmma`s with float32 sums in registers. Computing warpgroups take turns at the tensor
cores, so that one multiplies while another does its softmax (Shah et al. 2024, arXiv
2407.08608, section 3.1).

The blocks of keys of a block of queries are a range in three parts: those in the middle
every query of the block sees whole, and no mask is made for them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from soler1_jax.kernels.flash_attention import gpu_parts as parts
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention.gpu_parts import LOG2E, ROWS
from soler1_jax.kernels.flash_attention.rules import FLOOR, Rules

Array = jax.Array

_STAGES = 2
"""Buffers of keys, and of values."""

_REGISTERS = (232, 40)
"""Of a thread that computes and of one that fetches, with two computing warpgroups."""


def works_ahead(rules: Rules, size: int, segmented: bool) -> bool:
    """Return whether the next block's products start before this one's values are summed.

    Else the warpgroups take turns. What measured faster on an H100: see
    docs/flash_attention.md.
    """
    plain = not (segmented or rules.causal or rules.keys % rules.block_k)
    return plain and size == 128 and rules.block_q == 2 * ROWS


def forward(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> tuple[Array, Array]:
    """Return attention [B, Tq, Hq, D] and the log-normaliser float32 [B, Tq, Hq]."""
    args = parts.operands(rules, q, k, v, q_segments, kv_segments)
    ranges = rules_lib.key_block_ranges(rules, q_segments, kv_segments)
    # a block that sees nothing has one block of keys to find that out
    ranges = ranges.at[..., 3].max(ranges[..., 0] + 1)
    out, lse = attend(rules, args, ranges)
    lse = jnp.swapaxes(lse[:, :, : rules.queries], 1, 2)
    return out[:, : rules.queries, :, : q.shape[-1]], lse


def attend(rules: Rules, args: parts.Operands, ranges: Array) -> tuple[Array, Array]:
    """Return padded attention [B, T, Hq, D] and log-normalisers float32 [B, Hq, T].

    Args:
      rules: the call's.
      args: its arguments. Fewer queries than a warpgroup has rows are enough for one.
      ranges: int32 [B or 1, Nq, 4], as of `rules.key_block_ranges`; not empty.
    """
    batch, length, heads, size = args.queries.shape
    ahead = works_ahead(rules, size, bool(args.segments))
    wgs = rules.block_q // ROWS
    dtype = args.queries.dtype
    ring = parts.tile((_STAGES, rules.block_k, size), dtype)
    turns = plgpu.Barrier(num_arrivals=2) if wgs == 2 and not ahead else None
    freed = plgpu.Barrier(num_arrivals=wgs, num_barriers=_STAGES)
    filled = plgpu.Barrier(num_barriers=_STAGES)
    return plgpu.kernel(
        functools.partial(
            _forward_kernel, rules, args.group, bool(args.segments), ahead
        ),
        out_type=(
            jax.ShapeDtypeStruct(args.queries.shape, dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ),
        scratch_types=(
            parts.tile((wgs, ROWS, size), dtype),
            plgpu.SMEM((wgs, ROWS), jnp.float32),
            (ring, ring),
            plgpu.Barrier(num_barriers=wgs),
            (filled, filled),
            (freed, freed),
            turns,
        ),
        grid=(heads, rules.blocks_q, batch),
        grid_names=("head", "block", "batch"),
        num_threads=wgs + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(args.queries, args.keys, args.values, ranges, *args.segments)


def _forward_kernel(rules, group, segmented, ahead, q, k, v, ranges, *refs) -> None:
    segments, refs = (refs[:2], refs[2:]) if segmented else ((), refs)
    out, lse, q_tile, lse_tile, rings, q_filled, filled, freed, turns = refs
    wgs = rules.block_q // ROWS
    rows = min(ROWS, q.shape[1])
    batch, head, wg = (lax.axis_index(name) for name in ("batch", "head", "wg"))
    # with causal attention the last blocks take longest: they start first
    block = rules.blocks_q - 1 - lax.axis_index("block")
    row = 0 if ranges.shape[0] == 1 else batch
    bounds = parts.read_bounds(ranges, row, block)

    @pl.when(wg < wgs)
    def _compute():
        if wgs == 2:
            plgpu.set_max_registers(_REGISTERS[0], action="increase")
        query = block * rules.block_q + wg * ROWS
        span = pl.ds(query, rows)
        mine = (batch, span, head)
        queries, stats = q_tile.at[wg], lse_tile.at[wg]
        # what lies in rows beyond those that are fetched is computed with and dropped
        held, held_stats = queries.at[pl.ds(0, rows)], stats.at[pl.ds(0, rows)]
        plgpu.copy_gmem_to_smem(q.at[mine], held, q_filled.at[wg])
        plgpu.barrier_wait(q_filled.at[wg])
        softmax = _Softmax(
            rules,
            parts.Mask(rules, 0, segments, batch),
            (query, bounds[0]),
            queries,
            rings,
            (filled, freed),
            _Turns(turns, wg),
        )
        run = softmax.run_ahead if ahead else softmax.run
        values, top, total = run(bounds, q.shape[-1])
        some = total > 0
        norm = jnp.where(some, total, 1.0)
        queries[...] = (values / parts.across(norm, values.shape)).astype(q.dtype)
        stats[...] = jnp.where(some, top * (1 / LOG2E) + jnp.log(norm), -jnp.inf)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(held, out.at[mine])
        plgpu.copy_smem_to_gmem(held_stats, lse.at[batch, head, span])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == wgs)
    def _fetch():
        if wgs == 2:
            plgpu.set_max_registers(_REGISTERS[1], action="decrease")
        key_head = lax.div(head, jnp.int32(group))
        streams = zip((k, v), rings, filled, freed, strict=True)
        parts.fetch_keys(rules, bounds, (batch, key_head), streams)


class _Turns(NamedTuple):
    """Whose turn it is at the tensor cores.

    Attributes:
      barrier: all computing warpgroups arrive at it; None where there is one.
      wg: this warpgroup.
    """

    barrier: object
    wg: Array

    def arrive(self) -> None:
        """Let the others go on."""
        if self.barrier is not None:
            plgpu.barrier_arrive(self.barrier)

    def wait(self) -> None:
        """Wait until all have arrived."""
        if self.barrier is not None:
            plgpu.barrier_wait(self.barrier)

    def shift(self, wg: int) -> None:
        """Put one warpgroup half a step behind, or the others after the last step."""
        if self.barrier is not None:

            @pl.when(self.wg == wg)
            def _pass():
                self.arrive()
                self.wait()


class _Softmax(NamedTuple):
    """The sums over keys for the queries of a warpgroup.

    Attributes:
      rules, mask: of the call.
      start: the first query, and the first block of keys.
      queries: their buffer [64, D].
      rings: buffers of keys and values [stages, block, D].
      barriers: those of filled and of freed buffers, each for keys and values.
      turns: at the tensor cores.
    """

    rules: Rules
    mask: parts.Mask
    start: tuple[Array, Array]
    queries: object
    rings: tuple
    barriers: tuple
    turns: _Turns

    @property
    def masked(self) -> tuple[bool, bool]:
        """Whether blocks before and after those seen whole are there."""
        rules, segments = self.rules, bool(self.mask.segments)
        return segments, segments or rules.causal or rules.keys % rules.block_k > 0

    def run(self, bounds: tuple[Array, ...], size: int) -> tuple[Array, ...]:
        """Return the sums of values [64, D], greatest logits and sums of weights."""
        carry = (
            parts.zeros((ROWS, size)),
            parts.zeros((ROWS,), self.floor),
            parts.zeros((ROWS,)),
        )
        self.turns.shift(1)
        carry = parts.loops(bounds, self.step, carry, masked=self.masked)
        self.turns.shift(0)
        return carry

    @property
    def floor(self) -> float:
        """Where greatest logits start: far below any, far above one not allowed."""
        factor = parts.logits(self.rules, jnp.zeros(()))[1]
        return FLOOR * factor

    def slot(self, i: Array) -> Array:
        """Return the buffer that holds a block."""
        return lax.rem(i - self.start[1], jnp.int32(self.rings[0].shape[0]))

    def weigh(
        self, i: Array, products: Array, top: Array, total: Array, *, mask: bool
    ) -> tuple[Array, ...]:
        """Return weights, the factor of what was summed so far, and new top and total."""
        x, factor, _ = parts.logits(self.rules, products)
        if mask:
            x = self.mask.apply(x, self.start[0], i * self.rules.block_k)
        new_top = jnp.maximum(top, x.max(axis=1) * factor)
        shrink = jnp.exp2(top - new_top)
        weights = jnp.exp2(x * factor - parts.across(new_top, x.shape))
        total = total * shrink + weights.sum(axis=1)
        return weights.astype(self.queries.dtype), shrink, new_top, total

    def step(self, i: Array, carry: tuple[Array, ...], *, mask: bool):
        """Take in one block of keys."""
        (filled, freed), slot = self.barriers, self.slot(i)
        values, top, total = carry
        plgpu.barrier_wait(filled[0].at[slot])

        def product(sums):
            plgpu.wgmma(sums, self.queries, self.rings[0].at[slot].transpose((1, 0)))
            self.turns.arrive()
            self.turns.wait()
            return sums[...]

        shape = (ROWS, self.rules.block_k)
        x = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
        plgpu.barrier_arrive(freed[0].at[slot])
        weights, shrink, top, total = self.weigh(i, x, top, total, mask=mask)
        values *= parts.across(shrink, values.shape)
        values, total, top, weights = lax.optimization_barrier(
            (values, total, top, weights)
        )
        self.turns.arrive()
        plgpu.barrier_wait(filled[1].at[slot])
        self.turns.wait()
        values = parts.add_product(values, weights, self.rings[1].at[slot])
        plgpu.barrier_arrive(freed[1].at[slot])
        return values, top, total

    def run_ahead(self, bounds: tuple[Array, ...], size: int) -> tuple[Array, ...]:
        """Do as `run` does, with the products of the next block under way meanwhile."""
        (filled, freed), first = self.barriers, bounds[0]
        plgpu.barrier_wait(filled[0].at[0])
        keys = self.rings[0].at[0].transpose((1, 0))
        x = parts.multiply(self.queries, keys, (ROWS, self.rules.block_k))
        plgpu.barrier_arrive(freed[0].at[0])
        weights, _, top, total = self.weigh(
            first,
            x,
            parts.zeros((ROWS,), self.floor),
            parts.zeros((ROWS,)),
            mask=self.masked[1],
        )
        rest = tuple(jnp.maximum(bound, first + 1) for bound in bounds)
        carry = (parts.zeros((ROWS, size)), top, total, weights)
        values, top, total, weights = parts.loops(
            rest, self.step_ahead, carry, masked=self.masked
        )
        slot = self.slot(bounds[3] - 1)
        plgpu.barrier_wait(filled[1].at[slot])
        values = parts.add_product(values, weights, self.rings[1].at[slot])
        plgpu.barrier_arrive(freed[1].at[slot])
        return values, top, total

    def step_ahead(self, i: Array, carry: tuple[Array, ...], *, mask: bool):
        """Multiply a block's keys, and sum the values of the block before."""
        (filled, freed), slot, before = self.barriers, self.slot(i), self.slot(i - 1)
        values, top, total, weights = carry
        plgpu.barrier_wait(filled[0].at[slot])
        plgpu.barrier_wait(filled[1].at[before])

        def products(refs):
            sums, top, total, weights, shrink = refs

            def both(x):
                keys = self.rings[0].at[slot].transpose((1, 0))
                plgpu.wgmma(x, self.queries, keys)
                plgpu.wgmma(sums, weights[...], self.rings[1].at[before])
                return plgpu.wgmma_accumulator_load(x, wait_n=1)

            shape = (ROWS, self.rules.block_k)
            x = pl.run_scoped(both, plgpu.ACC(shape, jnp.float32))
            plgpu.barrier_arrive(freed[0].at[slot])
            new = self.weigh(i, x, top[...], total[...], mask=mask)
            weights[...], shrink[...], top[...], total[...] = new

        state = (plgpu.ACC.init(values), top, total, weights, top)
        values, top, total, weights, shrink = pl.run_state(products)(state)
        plgpu.barrier_arrive(freed[1].at[before])
        values *= parts.across(shrink, values.shape)
        return values, top, total, weights
