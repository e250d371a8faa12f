"""Attention for TPU: the backward kernels.

Two passes over the pairs of blocks (Dao 2023, arXiv 2307.08691, section 3.1): one holds
a block of queries and sums its gradient over key blocks, one holds a block of keys and
sums theirs over query heads and query blocks. Each makes the probabilities again, so
that no sum is ever shared between steps that may run at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention import tpu
from soler1_jax.kernels.flash_attention.rules import Rules

Array = jax.Array


class _Rows(NamedTuple):
    """What the backward pass knows of each query.

    Attributes:
      dout: [B, Hq, T, D], gradient of the output.
      lse, delta: float32 [B, Hq, 1, T].
    """

    dout: Array
    lse: Array
    delta: Array


def backward(
    implementation: str,
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
    """Return the gradients of q, k and v.

    Takes what `xla.backward` takes, after the implementation's name.
    """
    args = tpu.operands(rules, q, k, v, q_segments, kv_segments)
    split = functools.partial(tpu.by_head, rules.blocks_q, rules.block_q)
    # a padded query has dout and delta 0, and with lse 0 probabilities of 1: no harm
    lse, delta = (jnp.swapaxes(split(x[..., None]), 2, 3) for x in (lse, delta))
    rows = _Rows(split(dout), lse, delta)
    interpret = dispatch.interpret_params(implementation)
    dq = _query_gradient(rules, args, rows, interpret)
    dk, dv = _key_gradients(rules, args, rows, interpret)
    dk, dv = tpu.by_token(rules.keys, dk), tpu.by_token(rules.keys, dv)
    return tpu.by_token(rules.queries, dq), dk, dv


def _query_gradient(rules, args, rows, interpret) -> Array:
    batch, heads, _, size = args.queries.shape
    first, end = rules_lib.key_ranges(rules, *_flat_segments(rules, args))
    call = tpu.Call(rules, args.group, args.q_segments is not None)
    query_block = pl.BlockSpec((1, 1, rules.block_q, size), call.query_index)
    stat_block = pl.BlockSpec((1, 1, 1, rules.block_q), call.stat_index)
    return pl.pallas_call(
        functools.partial(_query_kernel, call),
        out_shape=jax.ShapeDtypeStruct(args.queries.shape, args.queries.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads, rules.blocks_q, tpu.longest(first, end)),
            in_specs=[
                *call.input_blocks(args, query_block),
                query_block,
                stat_block,
                stat_block,
            ],
            out_specs=query_block,
            scratch_shapes=(pltpu.VMEM((size, rules.block_q), jnp.float32),),
        ),
        compiler_params=tpu.compiler_params(parallel=3, sequential=1),
        cost_estimate=tpu.cost(rules, args, products=3),
        interpret=interpret,
        name="flash_attention_query_gradient",
    )(first, end, *tpu.present(args), *rows)


def _query_kernel(call: tpu.Call, first, end, *refs) -> None:
    inputs, (*rows, dq, total) = call.split(refs)
    row, i, step = call.row(), pl.program_id(2), pl.program_id(3)
    j = first[row, i] + step

    @pl.when(step == 0)
    def _start():
        total[...] = jnp.zeros(total.shape, jnp.float32)

    @pl.when(j < end[row, i])
    def _add():
        _, dlogits = _gradient_of_logits(call, inputs, _Rows(*rows), i, j)
        total[...] += tpu.dot(inputs.keys[0, 0], dlogits, 0, 0)

    @pl.when(step == pl.num_programs(3) - 1)
    def _finish():
        dq[0, 0] = jnp.transpose(total[...]).astype(dq.dtype)


class _KeyCall(tpu.Call):
    """The grid of the keys' gradients.

    Its axes are batch, key head, block of keys, query head of the group, step over query
    blocks; the ranges are those of `rules.query_ranges`.
    """

    __slots__ = ()

    def query_head(self, h, member):
        """Return the query head of a member of the group."""
        return h * self.group + member

    def query_block(self, b, j, step, first, end):
        """Return the block of queries of a step; beyond the range the last one stays."""
        return self._key_block(b, j, step, first, end)

    def key_spec(self, size: int) -> pl.BlockSpec:
        """Return the blocks of what is held."""
        return pl.BlockSpec(
            (1, 1, self.rules.block_k, size), lambda b, h, j, *rest: (b, h, j, 0)
        )

    def row_spec(self, size: int) -> pl.BlockSpec:
        """Return the blocks [1, 1, block_q, D] of what passes by."""
        return pl.BlockSpec(
            (1, 1, self.rules.block_q, size),
            lambda b, h, j, member, step, *ranges: (
                b,
                self.query_head(h, member),
                self.query_block(b, j, step, *ranges),
                0,
            ),
        )

    def stat_spec(self) -> pl.BlockSpec:
        """Return the blocks [1, 1, 1, block_q] of what passes by."""
        return pl.BlockSpec(
            (1, 1, 1, self.rules.block_q),
            lambda b, h, j, member, step, *ranges: (
                b,
                self.query_head(h, member),
                0,
                self.query_block(b, j, step, *ranges),
            ),
        )

    def segment_specs(self) -> list[pl.BlockSpec]:
        """Return the blocks of both arrays of segments."""
        if not self.segmented:
            return []
        return [
            pl.BlockSpec(
                (1, 1, self.rules.block_q),
                lambda b, h, j, member, step, *ranges: (
                    b,
                    0,
                    self.query_block(b, j, step, *ranges),
                ),
            ),
            pl.BlockSpec((1, 1, self.rules.block_k), lambda b, h, j, *rest: (b, 0, j)),
        ]


def _key_gradients(rules, args, rows, interpret) -> tuple[Array, Array]:
    batch, heads, _, size = args.keys.shape
    first, end = rules_lib.query_ranges(rules, *_flat_segments(rules, args))
    call = _KeyCall(rules, args.group, args.q_segments is not None)
    row_spec, key_spec, stat = (
        call.row_spec(size),
        call.key_spec(size),
        call.stat_spec(),
    )
    shape = jax.ShapeDtypeStruct(args.keys.shape, args.keys.dtype)
    return pl.pallas_call(
        functools.partial(_key_kernel, call),
        out_shape=(shape, shape),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads, rules.blocks_k, args.group, tpu.longest(first, end)),
            in_specs=[
                row_spec,
                key_spec,
                key_spec,
                *call.segment_specs(),
                row_spec,
                stat,
                stat,
            ],
            out_specs=(key_spec, key_spec),
            scratch_shapes=(
                pltpu.VMEM((rules.block_k, size), jnp.float32),
                pltpu.VMEM((rules.block_k, size), jnp.float32),
            ),
        ),
        compiler_params=tpu.compiler_params(parallel=3, sequential=2),
        cost_estimate=tpu.cost(rules, args, products=4),
        interpret=interpret,
        name="flash_attention_key_gradients",
    )(first, end, *tpu.present(args), *rows)


def _key_kernel(call: _KeyCall, first, end, *refs) -> None:
    inputs, (*rows, dk, dv, dk_total, dv_total) = call.split(refs)
    rows = _Rows(*rows)
    row, j, member, step = call.row(), *(pl.program_id(axis) for axis in (2, 3, 4))
    i = first[row, j] + step

    @pl.when((member == 0) & (step == 0))
    def _start():
        dk_total[...] = jnp.zeros(dk_total.shape, jnp.float32)
        dv_total[...] = jnp.zeros(dv_total.shape, jnp.float32)

    @pl.when(i < end[row, j])
    def _add():
        dout = rows.dout[0, 0]
        weights, dlogits = _gradient_of_logits(call, inputs, rows, i, j)
        dv_total[...] += tpu.dot(weights.astype(dout.dtype), dout, 1, 0)
        dk_total[...] += tpu.dot(dlogits, inputs.queries[0, 0], 1, 0)

    @pl.when((member == call.group - 1) & (step == pl.num_programs(4) - 1))
    def _finish():
        dk[0, 0] = dk_total[...].astype(dk.dtype)
        dv[0, 0] = dv_total[...].astype(dv.dtype)


def _gradient_of_logits(call, inputs, rows, i, j) -> tuple[Array, Array]:
    """Return probabilities and gradients of q . k, both [block_k, block_q]."""
    query, dout = inputs.queries[0, 0], rows.dout[0, 0]
    logits, slope = call.logits(inputs, i, j)
    weights = jnp.exp(logits - rows.lse[0, 0])
    dweights = tpu.dot(inputs.values[0, 0], dout, 1, 1)
    dlogits = weights * (dweights - rows.delta[0, 0])
    if slope is not None:
        dlogits *= slope
    return weights, (dlogits * call.rules.softmax_scale).astype(query.dtype)


def _flat_segments(rules, args) -> tuple[Array | None, Array | None]:
    if args.q_segments is None:
        return None, None
    return args.q_segments[:, 0], args.kv_segments[:, 0]
