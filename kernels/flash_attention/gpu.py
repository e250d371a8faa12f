"""Attention for Hopper: the forward kernel, and what it shares with the backward ones.

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
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention.rules import FLOOR, MASKED, Rules

Array = jax.Array

ROWS = 64
"""Rows of a `wgmma` product: what one warpgroup computes."""

MAX_SIZE = 256
"""Greatest head size: a row's sum of values must stay in registers."""

LOG2E = math.log2(math.e)

PRODUCT = plgpu.Layout.WGMMA
ROW = PRODUCT.reduce(1)
"""Layout of a number a row of a product."""
COLUMN = PRODUCT.reduce(0)
"""Layout of a number a column of a product."""

_REGISTERS = {2: (232, 40), 3: (160, 32)}
"""By computing warpgroups, registers of a computing and of the fetching thread."""


class Tuning(NamedTuple):
    """How a kernel goes about its work.

    Attributes:
      stages: buffers of keys, and of values.
      turns: whether two computing warpgroups take turns at the tensor cores.
      ahead: whether the products of the next block start before the values of this one
        are summed.
    """

    stages: int
    turns: bool
    ahead: bool


def tuning(rules: Rules, size: int, segmented: bool) -> Tuning:
    """Return what measured fastest on an H100 (docs/flash_attention.md)."""
    plain = not (segmented or rules.causal or rules.keys % rules.block_k)
    ahead = plain and size == 128 and rules.block_q == 2 * ROWS
    return Tuning(stages=2, turns=not ahead, ahead=ahead)


class Operands(NamedTuple):
    """The arguments as the kernels read them, padded to whole blocks.

    Attributes:
      queries, keys, values: [B, T, heads, D], D a multiple of 16.
      q_segments, kv_segments: int32 [B, T], or None; padding is 0 and -1.
    """

    queries: Array
    keys: Array
    values: Array
    q_segments: Array | None
    kv_segments: Array | None

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.queries.shape[2] // self.keys.shape[2]

    @property
    def segments(self) -> tuple[Array, ...]:
        """The arrays of segments, if any."""
        return () if self.q_segments is None else (self.q_segments, self.kv_segments)


def operands(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> Operands:
    """Return the arguments of `api.flash_attention` in the kernels' layout."""
    queries = pad(rules.blocks_q, rules.block_q, q)
    keys, values = (pad(rules.blocks_k, rules.block_k, x) for x in (k, v))
    if q_segments is None:
        return Operands(queries, keys, values, None, None)
    q_segments, kv_segments = (
        rules_lib.pad_blocks(jnp.maximum(x, 0), blocks, size, 1)
        for x, blocks, size in (
            (q_segments, rules.blocks_q, rules.block_q),
            (kv_segments, rules.blocks_k, rules.block_k),
        )
    )
    kv_segments = jnp.where(kv_segments > 0, kv_segments, -1)
    return Operands(queries, keys, values, q_segments, kv_segments)


def pad(blocks: int, size: int, x: Array) -> Array:
    """Return [B, T, heads, D] with T whole blocks and D a multiple of 16."""
    x = rules_lib.pad_blocks(x, blocks, size, 1)
    return rules_lib.pad_blocks(x, -(-x.shape[-1] // 16), 16, 3)


def tile(shape: tuple[int, ...], dtype: jnp.dtype) -> plgpu.SMEM:
    """Return shared memory [..., D] as `wgmma` reads it."""
    channels = math.gcd(shape[-1], 128 // dtype.itemsize)
    transforms = (
        plgpu.TilingTransform((8, channels)),
        plgpu.SwizzleTransform(channels * dtype.itemsize),
    )
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def loops(
    bounds: tuple[Array, ...], body, carry, *, masked: tuple[bool, bool]
) -> tuple[Array, ...]:
    """Run `body(i, carry, mask=...)` over a range in three parts.

    Args:
      bounds: four int32 scalars, as a row of `rules.key_block_ranges`.
      body: one step.
      carry: what the steps hand on.
      masked: whether there are steps before and after the part that is seen whole.
    """
    before, after = masked
    first, whole, whole_end, end = bounds
    if before:
        carry = lax.fori_loop(first, whole, functools.partial(body, mask=True), carry)
    carry = lax.fori_loop(whole, whole_end, functools.partial(body, mask=False), carry)
    if after:
        carry = lax.fori_loop(whole_end, end, functools.partial(body, mask=True), carry)
    return carry


def read_bounds(ranges, row: Array, i: Array) -> tuple[Array, ...]:
    """Return the four numbers of a block."""
    return tuple(ranges[row, i, part] for part in range(4))


def multiply(a, b, shape: tuple[int, int]) -> Array:
    """Return the product of two buffers, float32."""

    def product(sums):
        plgpu.wgmma(sums, a, b)
        return sums[...]

    return pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))


def add_product(sums: Array, a, b) -> Array:
    """Return sums + a b, float32."""

    def product(ref):
        plgpu.wgmma(ref, a, b)

    return pl.run_state(product)(plgpu.ACC.init(sums))


def multiply_two(first: tuple, second: tuple, shape: tuple[int, int], then):
    """Return `then` of one product, done while another is made, and that other.

    Args:
      first, second: two buffers each.
      shape: of both products.
      then: a function of the first product.
    """

    def products(x, y):
        plgpu.wgmma(x, *first)
        plgpu.wgmma(y, *second)
        done = then(plgpu.wgmma_accumulator_load(x, wait_n=1))
        return done, plgpu.wgmma_accumulator_load(y)

    sums = plgpu.ACC(shape, jnp.float32)
    return pl.run_scoped(products, sums, sums)


def add_two_products(sums: tuple, first: tuple, second: tuple) -> tuple[Array, Array]:
    """Return two sums with a product added to each.

    Args:
      sums: float32, two.
      first: a factor and a buffer.
      second: a function that makes a factor while the first product is made, and a
        buffer.
    """

    def products(refs):
        plgpu.wgmma(refs[0], *first)
        plgpu.wgmma(refs[1], second[0](), second[1])

    return pl.run_state(products)(tuple(plgpu.ACC.init(x) for x in sums))


def load(ref, layout) -> Array:
    """Return what a reference to device memory holds, in a layout."""
    return plgpu.load(ref, (), layout=layout, optimized=False)


def across(x: Array, shape: tuple[int, int]) -> Array:
    """Return a number a row, for all columns."""
    return lax.broadcast_in_dim(x, shape, [0])


def down(x: Array, shape: tuple[int, int]) -> Array:
    """Return a number a column, for all rows."""
    return lax.broadcast_in_dim(x, shape, [1])


def zeros(shape: tuple[int, ...], value: float = 0.0) -> Array:
    """Return a constant in the layout of products or of their rows."""
    layout = PRODUCT if len(shape) == 2 else ROW
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def logits(rules: Rules, products: Array) -> tuple[Array, float, Array | None]:
    """Return logits but for a factor, the factor, and the slope of the cap if any.

    The factor, positive, gives them in units of log 2; it is applied together with the
    subtraction of their maximum, as one instruction.
    """
    scale = rules.softmax_scale
    if rules.logit_cap is not None:
        bent = jnp.tanh(products * (scale / rules.logit_cap))
        return bent, rules.logit_cap * LOG2E, 1 - bent * bent
    if scale > 0:
        return products, scale * LOG2E, None
    return products * (scale * LOG2E), 1.0, None


class Mask(NamedTuple):
    """Which pairs of a block are allowed.

    Attributes:
      rules: the call's.
      query_axis: the axis of products along which queries lie.
      segments: refs [B, T] of queries and keys, or nothing.
      row: index into the segments' first axis.
    """

    rules: Rules
    query_axis: int
    segments: tuple
    row: Array | int

    def apply(self, x: Array, query: Array, key: Array) -> Array:
        """Return x with `MASKED` where the pair is not allowed.

        Args:
          x: logits of a block.
          query, key: indices of the first.
        """
        rules, shape = self.rules, x.shape
        starts = (query, key) if self.query_axis == 0 else (key, query)
        if self.segments:
            refs = self.segments if self.query_axis == 0 else self.segments[::-1]
            down_, across_ = (
                load(ref.at[self.row, pl.ds(start, size)], layout)
                for ref, start, size, layout in zip(
                    refs, starts, shape, (ROW, COLUMN), strict=True
                )
            )
            x = jnp.where(across(down_, shape) == down(across_, shape), x, MASKED)
        ragged = rules.keys % rules.block_k and not self.segments
        if not (rules.causal or ragged):
            return x
        index = [
            plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=PRODUCT)
            for axis in (self.query_axis, 1 - self.query_axis)
        ]
        queries, keys = index[0] + (query + rules.offset), index[1] + key
        if rules.causal:
            x = jnp.where(keys <= queries, x, MASKED)
        if ragged:
            x = jnp.where(keys < rules.keys, x, MASKED)
        return x


def forward(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> tuple[Array, Array]:
    """Return attention [B, Tq, Hq, D] and the log-normaliser float32 [B, Tq, Hq]."""
    args = operands(rules, q, k, v, q_segments, kv_segments)
    ranges = rules_lib.key_block_ranges(rules, q_segments, kv_segments)
    # a block that sees nothing has one block of keys to find that out
    ranges = ranges.at[..., 3].max(ranges[..., 0] + 1)
    out, lse = attend(rules, args, ranges)
    lse = jnp.swapaxes(lse[:, :, : rules.queries], 1, 2)
    return out[:, : rules.queries, :, : q.shape[-1]], lse


def attend(
    rules: Rules, args: Operands, ranges: Array, tuned: Tuning | None = None
) -> tuple[Array, Array]:
    """Return padded attention [B, T, Hq, D] and log-normalisers float32 [B, Hq, T].

    Args:
      rules: the call's.
      args: its arguments. Fewer queries than a warpgroup has rows are enough for one.
      ranges: int32 [B or 1, Nq, 4], as of `rules.key_block_ranges`; not empty.
      tuned: None for what suits the call.
    """
    batch, length, heads, size = args.queries.shape
    tuned = tuned or tuning(rules, size, bool(args.segments))
    wgs = rules.block_q // ROWS
    dtype = args.queries.dtype
    ring = tile((tuned.stages, rules.block_k, size), dtype)
    turns = plgpu.Barrier(num_arrivals=2) if wgs == 2 and tuned.turns else None
    freed = plgpu.Barrier(num_arrivals=wgs, num_barriers=tuned.stages)
    filled = plgpu.Barrier(num_barriers=tuned.stages)
    return plgpu.kernel(
        functools.partial(
            _forward_kernel, rules, args.group, bool(args.segments), tuned
        ),
        out_type=(
            jax.ShapeDtypeStruct(args.queries.shape, dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ),
        scratch_types=(
            tile((wgs, ROWS, size), dtype),
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


def _forward_kernel(rules, group, segmented, tuned, q, k, v, ranges, *refs) -> None:
    segments, refs = (refs[:2], refs[2:]) if segmented else ((), refs)
    out, lse, q_tile, lse_tile, rings, q_filled, filled, freed, turns = refs
    wgs = rules.block_q // ROWS
    rows = min(ROWS, q.shape[1])
    batch, head, wg = (lax.axis_index(name) for name in ("batch", "head", "wg"))
    # with causal attention the last blocks take longest: they start first
    block = rules.blocks_q - 1 - lax.axis_index("block")
    row = 0 if ranges.shape[0] == 1 else batch
    bounds = read_bounds(ranges, row, block)

    @pl.when(wg < wgs)
    def _compute():
        if wgs in _REGISTERS:
            plgpu.set_max_registers(_REGISTERS[wgs][0], action="increase")
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
            Mask(rules, 0, segments, batch),
            (query, bounds[0]),
            queries,
            rings,
            (filled, freed),
            _Turns(turns, wg),
        )
        run = softmax.run_ahead if tuned.ahead else softmax.run
        values, top, total = run(bounds, q.shape[-1])
        some = total > 0
        norm = jnp.where(some, total, 1.0)
        queries[...] = (values / across(norm, values.shape)).astype(q.dtype)
        stats[...] = jnp.where(some, top * (1 / LOG2E) + jnp.log(norm), -jnp.inf)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(held, out.at[mine])
        plgpu.copy_smem_to_gmem(held_stats, lse.at[batch, head, span])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == wgs)
    def _fetch():
        if wgs in _REGISTERS:
            plgpu.set_max_registers(_REGISTERS[wgs][1], action="decrease")
        key_head = lax.div(head, jnp.int32(group))

        def where(i):
            start = (bounds[0] + i) * rules.block_k
            return batch, pl.ds(start, rules.block_k), key_head

        fill_ring(
            bounds[3] - bounds[0],
            tuple(
                (source, where, *rest)
                for source, *rest in zip((k, v), rings, filled, freed, strict=True)
            ),
        )


def fill_ring(steps: Array, streams: tuple[tuple, ...]) -> None:
    """Fetch blocks in turn, each into the buffer that was freed longest ago.

    Args:
      steps: how many.
      streams: of each array the source, a function from a step to the index of what it
        fetches, the buffers, and a barrier for each of them that tells that it was
        filled and one that tells that it was freed.
    """
    stages = streams[0][2].shape[0]

    def step(i, _):
        slot = lax.rem(i, jnp.int32(stages))
        for source, where, ring, filled, freed in streams:

            @pl.when(i >= stages)
            def _wait(freed=freed):
                plgpu.barrier_wait(freed.at[slot])

            plgpu.copy_gmem_to_smem(source.at[where(i)], ring.at[slot], filled.at[slot])
        return ()

    lax.fori_loop(0, steps, step, ())
    for slot in range(stages):

        @pl.when(slot < steps)
        def _drain(slot=slot):
            for *_, freed in streams:
                plgpu.barrier_wait(freed.at[slot])


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
    mask: Mask
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
        carry = (zeros((ROWS, size)), zeros((ROWS,), self.floor), zeros((ROWS,)))
        self.turns.shift(1)
        carry = loops(bounds, self.step, carry, masked=self.masked)
        self.turns.shift(0)
        return carry

    @property
    def floor(self) -> float:
        """Where greatest logits start: far below any, far above one not allowed."""
        factor = logits(self.rules, jnp.zeros(()))[1]
        return FLOOR * factor

    def slot(self, i: Array) -> Array:
        """Return the buffer that holds a block."""
        return lax.rem(i - self.start[1], jnp.int32(self.rings[0].shape[0]))

    def weigh(
        self, i: Array, products: Array, top: Array, total: Array, *, mask: bool
    ) -> tuple[Array, ...]:
        """Return weights, the factor of what was summed so far, and new top and total."""
        x, factor, _ = logits(self.rules, products)
        if mask:
            x = self.mask.apply(x, self.start[0], i * self.rules.block_k)
        new_top = jnp.maximum(top, x.max(axis=1) * factor)
        shrink = jnp.exp2(top - new_top)
        weights = jnp.exp2(x * factor - across(new_top, x.shape))
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
        values *= across(shrink, values.shape)
        values, total, top, weights = lax.optimization_barrier(
            (values, total, top, weights)
        )
        self.turns.arrive()
        plgpu.barrier_wait(filled[1].at[slot])
        self.turns.wait()
        values = add_product(values, weights, self.rings[1].at[slot])
        plgpu.barrier_arrive(freed[1].at[slot])
        return values, top, total

    def run_ahead(self, bounds: tuple[Array, ...], size: int) -> tuple[Array, ...]:
        """Do as `run` does, with the products of the next block under way meanwhile."""
        (filled, freed), first = self.barriers, bounds[0]
        plgpu.barrier_wait(filled[0].at[0])
        keys = self.rings[0].at[0].transpose((1, 0))
        x = multiply(self.queries, keys, (ROWS, self.rules.block_k))
        plgpu.barrier_arrive(freed[0].at[0])
        weights, _, top, total = self.weigh(
            first,
            x,
            zeros((ROWS,), self.floor),
            zeros((ROWS,)),
            mask=self.masked[1],
        )
        rest = tuple(jnp.maximum(bound, first + 1) for bound in bounds)
        carry = (zeros((ROWS, size)), top, total, weights)
        self.turns.shift(1)
        values, top, total, weights = loops(
            rest, self.step_ahead, carry, masked=self.masked
        )
        self.turns.shift(0)
        slot = self.slot(bounds[3] - 1)
        plgpu.barrier_wait(filled[1].at[slot])
        values = add_product(values, weights, self.rings[1].at[slot])
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
                self.turns.arrive()
                self.turns.wait()
                return plgpu.wgmma_accumulator_load(x, wait_n=1)

            shape = (ROWS, self.rules.block_k)
            x = pl.run_scoped(both, plgpu.ACC(shape, jnp.float32))
            plgpu.barrier_arrive(freed[0].at[slot])
            new = self.weigh(i, x, top[...], total[...], mask=mask)
            weights[...], shrink[...], top[...], total[...] = new

        state = (plgpu.ACC.init(values), top, total, weights, top)
        values, top, total, weights, shrink = pl.run_state(products)(state)
        plgpu.barrier_arrive(freed[1].at[before])
        values *= across(shrink, values.shape)
        self.turns.arrive()
        self.turns.wait()
        return values, top, total, weights
