"""Attention for TPU: the forward kernel, and what it shares with the backward ones.

One step of the grid lets one block of queries see one block of keys. Which key blocks a
block of queries sees is prefetched as scalars; the last grid axis is as long as the
longest of these ranges, and a step beyond its own range neither computes nor fetches.

Logits are kept transposed, keys down and queries across. A number a query (maximum,
normaliser, gradients' sums, segment) is then a row of lanes: it is stored densely, and
it is reduced over sublanes, which is cheaper than over lanes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention.rules import FLOOR, MASKED, Rules

Array = jax.Array

SUBLANES = 8
"""Height of a vector register of 32-bit numbers."""

VMEM_LIMIT = 16 * 2**20
"""Bytes of VMEM that a kernel may take: what a v5e gives without asking."""


class Operands(NamedTuple):
    """The arguments as the kernels read them, padded to whole blocks.

    Attributes:
      queries, keys, values: [B, heads, T, D].
      q_segments, kv_segments: int32 [B, 1, T], or None.
    """

    queries: Array
    keys: Array
    values: Array
    q_segments: Array | None
    kv_segments: Array | None

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.queries.shape[1] // self.keys.shape[1]


def operands(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> Operands:
    """Return the arguments of `api.flash_attention` in the kernels' layout."""
    return Operands(
        by_head(rules.blocks_q, rules.block_q, q),
        by_head(rules.blocks_k, rules.block_k, k),
        by_head(rules.blocks_k, rules.block_k, v),
        _segment_rows(rules.blocks_q, rules.block_q, q_segments),
        _segment_rows(rules.blocks_k, rules.block_k, kv_segments),
    )


def by_head(blocks: int, size: int, x: Array) -> Array:
    """Return [B, T, heads, D] as [B, heads, blocks * size, D]."""
    return rules_lib.pad_blocks(jnp.swapaxes(x, 1, 2), blocks, size, 2)


def by_token(length: int, x: Array) -> Array:
    """Undo `by_head`."""
    return jnp.swapaxes(x[:, :, :length], 1, 2)


def _segment_rows(blocks: int, size: int, segments: Array | None) -> Array | None:
    if segments is None:
        return None
    return rules_lib.pad_blocks(segments, blocks, size, 1)[:, None]


def forward(
    implementation: str,
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> tuple[Array, Array]:
    """Return attention [B, Tq, Hq, D] and the log-normaliser float32 [B, Tq, Hq]."""
    args = operands(rules, q, k, v, q_segments, kv_segments)
    batch, heads, length, size = args.queries.shape
    first, end = rules_lib.key_ranges(rules, q_segments, kv_segments)
    call = Call(rules, args.group, q_segments is not None)
    query_block = pl.BlockSpec((1, 1, rules.block_q, size), call.query_index)
    stat_block = pl.BlockSpec((1, 1, 1, rules.block_q), call.stat_index)
    out, lse = pl.pallas_call(
        functools.partial(_forward_kernel, call),
        out_shape=(
            jax.ShapeDtypeStruct(args.queries.shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads, rules.blocks_q, longest(first, end)),
            in_specs=call.input_blocks(args, query_block),
            out_specs=(query_block, stat_block),
            scratch_shapes=(
                pltpu.VMEM((1, rules.block_q), jnp.float32),
                pltpu.VMEM((1, rules.block_q), jnp.float32),
                pltpu.VMEM((size, rules.block_q), jnp.float32),
            ),
        ),
        compiler_params=compiler_params(parallel=3, sequential=1),
        cost_estimate=cost(rules, args, products=2),
        interpret=dispatch.interpret_params(implementation),
        name="flash_attention_forward",
    )(first, end, *present(args))
    return by_token(rules.queries, out), by_token(rules.queries, lse[:, :, 0])


def _forward_kernel(call: "Call", first, end, *refs) -> None:
    inputs, (out, lse, top, total, seen) = call.split(refs)
    row, i, step = call.row(), pl.program_id(2), pl.program_id(3)
    j = first[row, i] + step

    @pl.when(step == 0)
    def _start():
        top[...] = jnp.full(top.shape, FLOOR, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        seen[...] = jnp.zeros(seen.shape, jnp.float32)

    @pl.when(j < end[row, i])
    def _see():
        value = inputs.values[0, 0]
        logits, _ = call.logits(inputs, i, j)
        old = top[...]
        new = jnp.maximum(old, jnp.max(logits, axis=0, keepdims=True))
        weights = jnp.exp(logits - new)
        fade = jnp.exp(old - new)
        top[...] = new
        total[...] = fade * total[...] + jnp.sum(weights, axis=0, keepdims=True)
        seen[...] = fade * seen[...] + dot(value, weights.astype(value.dtype), 0, 0)

    @pl.when(step == pl.num_programs(3) - 1)
    def _finish():
        some = total[...] > 0
        whole = jnp.where(some, total[...], 1)
        out[0, 0] = jnp.transpose(seen[...] / whole).astype(out.dtype)
        lse[0, 0] = jnp.where(some, top[...] + jnp.log(whole), -jnp.inf)


class Call(NamedTuple):
    """What kernels and index maps know about the call.

    The grid's axes are batch, query head, block of queries, step over key blocks.
    """

    rules: Rules
    group: int
    segmented: bool

    def row(self) -> Any:
        """Return the row of the prefetched ranges that this step reads."""
        return pl.program_id(0) if self.segmented else 0

    def query_index(self, b, h, i, step, *ranges):
        """Index map of blocks [1, 1, block_q, D]."""
        return b, h, i, 0

    def stat_index(self, b, h, i, step, *ranges):
        """Index map of blocks [1, 1, 1, block_q]."""
        return b, h, 0, i

    def key_index(self, b, h, i, step, first, end):
        """Index map of blocks [1, 1, block_k, D]."""
        return b, jax.lax.div(h, self.group), self._key_block(b, i, step, first, end), 0

    def _key_block(self, b, i, step, first, end):
        # beyond the range the last block stays, so that nothing is fetched
        row = b if self.segmented else 0
        last = jnp.maximum(end[row, i] - 1, 0)
        return jnp.minimum(first[row, i] + step, last)

    def input_blocks(self, args: Operands, query_block: pl.BlockSpec) -> list:
        """Return the block specs of `present(args)`."""
        size = args.queries.shape[-1]
        key_block = pl.BlockSpec((1, 1, self.rules.block_k, size), self.key_index)
        blocks = [query_block, key_block, key_block]
        if self.segmented:
            blocks += [
                pl.BlockSpec(
                    (1, 1, self.rules.block_q), lambda b, h, i, step, *ranges: (b, 0, i)
                ),
                pl.BlockSpec(
                    (1, 1, self.rules.block_k),
                    lambda b, h, i, step, *ranges: (
                        b,
                        0,
                        self._key_block(b, i, step, *ranges),
                    ),
                ),
            ]
        return blocks

    def split(self, refs) -> tuple[Operands, tuple]:
        """Return the references of the inputs, and the others."""
        count = 5 if self.segmented else 3
        missing = () if self.segmented else (None, None)
        return Operands(*refs[:count], *missing), refs[count:]

    def logits(self, inputs: Operands, i, j) -> tuple[Array, Array | None]:
        """Return masked logits float32 [block_k, block_q] and the cap's slope."""
        rules = self.rules
        logits = dot(inputs.keys[0, 0], inputs.queries[0, 0], 1, 1)
        logits *= rules.softmax_scale
        slope = None
        if rules.logit_cap is not None:
            bent = jnp.tanh(logits / rules.logit_cap)
            logits, slope = rules.logit_cap * bent, 1 - bent * bent
        key = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
        query = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        allowed = rules_lib.visible(
            rules,
            query + i * rules.block_q,
            key + j * rules.block_k,
            inputs.q_segments[0] if self.segmented else None,
            _column(inputs.kv_segments[0]) if self.segmented else None,
        )
        return (
            logits if allowed is None else jnp.where(allowed, logits, MASKED)
        ), slope


def _column(row: Array) -> Array:
    """Return a row [1, N] as a column [N, 1]; whole registers are transposed."""
    return jnp.transpose(jnp.broadcast_to(row, (SUBLANES, row.shape[1])))[:, :1]


def present(args: Operands) -> list[Array]:
    """Return the operands that the call has."""
    return [x for x in args if x is not None]


def longest(first: Array, end: Array) -> Array:
    """Return the steps that the longest range needs; 1 at least, to write the output."""
    return jnp.maximum(jnp.max(end - first), 1)


def dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Return the float32 product of two matrices over the axes that are named."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def compiler_params(parallel: int, sequential: int) -> pltpu.CompilerParams:
    """Return the kernels' parameters, for a grid of so many axes of each kind."""
    return pltpu.CompilerParams(
        dimension_semantics=("parallel",) * parallel + ("arbitrary",) * sequential,
        vmem_limit_bytes=VMEM_LIMIT,
    )


def cost(rules: Rules, args: Operands, products: int) -> pl.CostEstimate:
    """Return what a kernel costs without segments, for XLA's scheduler.

    Args:
      rules, args: the call's.
      products: matrix products a pair of blocks.
    """
    batch, heads, _, size = args.queries.shape
    pairs = batch * heads * rules_lib.pairs(rules)
    read = sum(x.size * x.dtype.itemsize for x in args[:3])
    return pl.CostEstimate(
        flops=2 * products * size * pairs,
        transcendentals=pairs,
        bytes_accessed=2 * read,
    )
