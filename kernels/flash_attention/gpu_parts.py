"""What the Hopper kernels of attention, forward and backward, are put together from.

Operands in the kernels' layout, products in registers, masks, and the ring of buffers in
shared memory through which blocks are fetched ahead of their use.
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
from soler1_jax.kernels.flash_attention.rules import MASKED, Rules

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


def fetch_once(sources, buffers, barriers) -> None:
    """Fetch what stays for the whole of a kernel, and wait for it."""
    for source, buffer, barrier in zip(sources, buffers, barriers, strict=True):
        plgpu.copy_gmem_to_smem(source, buffer, barrier)
    for barrier in barriers:
        plgpu.barrier_wait(barrier)


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


def fetch_keys(rules: Rules, bounds: tuple, at: tuple[Array, Array], streams) -> None:
    """Fetch the blocks of keys of a block of queries, as `fill_ring` does.

    Args:
      rules: the call's.
      bounds: a row of `rules.key_block_ranges`.
      at: indices of the batch and of the key head.
      streams: what `fill_ring` takes, without where.
    """

    def where(i):
        start = (bounds[0] + i) * rules.block_k
        return at[0], pl.ds(start, rules.block_k), at[1]

    fill_ring(
        bounds[3] - bounds[0],
        tuple((source, where, *rest) for source, *rest in streams),
    )
