"""Attention block by block in plain JAX, forward and backward.

The query rows of a block see their key blocks one after another, with a running maximum
and normaliser (Dao et al. 2022, arXiv 2205.14135, algorithm 1); the backward pass makes
the probabilities again from the stored log-normaliser (Dao 2023, arXiv 2307.08691,
algorithm 2). Nothing of size Tq x Tk is ever kept.

Dimension letters: R rows whose ranges of blocks differ (the batch with segments, else
1), H heads of keys times the rest of the batch, G query heads that share a key head, I
and J blocks of queries and keys, N block rows G * block_q, D head size.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from soler1_jax.kernels.flash_attention import rules as rules_lib
from soler1_jax.kernels.flash_attention.rules import FLOOR, MASKED, Rules

Array = jax.Array


class _Segments(NamedTuple):
    """Segments of one row by block: int32 [I, block_q] and [J, block_k]."""

    queries: Array
    keys: Array


def forward(
    rules: Rules,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> tuple[Array, Array]:
    """Return attention [B, Tq, Hq, D] and the log-normaliser float32 [B, Tq, Hq]."""
    split = _Split(rules, q, k, q_segments is not None)
    ranges = _ranges(rules, q_segments, kv_segments)
    segments = _split_segments(rules, q_segments, kv_segments)

    def row(args):
        queries, keys, values, ranges, segments = args

        def block(args):
            query, index, first, full, end = args
            edge = (index, segments)
            if rules.blocks_k == 1:
                # without a loop it fuses with what comes before and after
                top, total, out = _see_only(rules, query, keys, values, edge)
            else:
                step = functools.partial(_forward_step, rules, query, keys, values)
                rows = query.shape[:-1]
                state = (
                    jnp.full(rows, FLOOR, jnp.float32),
                    jnp.zeros(rows, jnp.float32),
                    jnp.zeros(query.shape, jnp.float32),
                )
                top, total, out = _see_keys(step, edge, (first, full, end), state)
            some = total > 0
            total = jnp.where(some, total, 1)
            lse = jnp.where(some, top + jnp.log(total), -jnp.inf)
            return (out / total[..., None]).astype(q.dtype), lse

        return _map(block, (queries, jnp.arange(rules.blocks_q), *ranges))

    out, lse = _map(
        row, (split.queries(q), split.keys(k), split.keys(v), ranges, segments)
    )
    return split.join_queries(out), split.join_queries(lse[..., None])[..., 0]


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
    """Return the gradients of q, k and v.

    Args:
      rules, q, k, v, q_segments, kv_segments: as for `forward`.
      lse: float32 [B, Tq, Hq], -inf replaced by a large number.
      dout: [B, Tq, Hq, D], gradient of the output.
      delta: float32 [B, Tq, Hq], sum of dout * out minus the gradient of lse.
    """
    split = _Split(rules, q, k, q_segments is not None)
    ranges = _ranges(rules, q_segments, kv_segments)
    segments = _split_segments(rules, q_segments, kv_segments)

    def row(args):
        queries, douts, lses, deltas, keys, values, ranges, segments = args

        def block(sums, args):
            query, dout, lse, delta, index, first, full, end = args
            rows = (query, dout, lse[..., 0], delta[..., 0])
            step = functools.partial(_backward_step, rules, rows, keys, values)
            state = (jnp.zeros(query.shape, jnp.float32), *sums)
            edge = (index, segments)
            if rules.blocks_k == 1:
                dq, *sums = step(edge, 0, state)
            else:
                dq, *sums = _see_keys(step, edge, (first, full, end), state)
            return tuple(sums), dq.astype(q.dtype)

        zeros = jnp.zeros(keys.shape, jnp.float32)
        blocks = (queries, douts, lses, deltas, jnp.arange(rules.blocks_q), *ranges)
        (dk, dv), dq = _scan(block, (zeros, zeros), blocks)
        return dq, dk.astype(k.dtype), dv.astype(v.dtype)

    by_query = [split.queries(x) for x in (q, dout, lse[..., None], delta[..., None])]
    dq, dk, dv = _map(row, (*by_query, split.keys(k), split.keys(v), ranges, segments))
    return split.join_queries(dq), split.join_keys(dk), split.join_keys(dv)


def _see_keys(step, edge, ranges, state):
    """Run a step over the key blocks of a range; only those not whole need a mask."""
    first, full, end = ranges
    state = jax.lax.fori_loop(first, full, functools.partial(step, None), state)
    return jax.lax.fori_loop(full, end, functools.partial(step, edge), state)


def _see_only(rules, query, keys, values, edge):
    """Let rows [H, N, D] see the only key block: no earlier maximum to compare with."""
    logits, _ = _logits(rules, query, keys[0], edge, 0)
    top = jnp.max(logits, axis=-1)
    _, segments = edge
    if segments is not None or (rules.causal and rules.offset < 0):
        # rows that see nothing; elsewhere it would keep XLA from fusing with the product
        top = jnp.maximum(top, FLOOR)
    weights = jnp.exp(logits - top[..., None])
    out = _dot("hnk,hkd->hnd", weights.astype(values.dtype), values[0])
    return top, jnp.sum(weights, axis=-1), out


def _forward_step(rules, query, keys, values, edge, j, state):
    """Let rows [H, N, D] see key block `j`."""
    top, total, out = state
    key, value = keys[j], values[j]
    logits, _ = _logits(rules, query, key, edge, j)
    new_top = jnp.maximum(top, jnp.max(logits, axis=-1))
    weights = jnp.exp(logits - new_top[..., None])
    fade = jnp.exp(top - new_top)
    total = fade * total + jnp.sum(weights, axis=-1)
    seen = _dot("hnk,hkd->hnd", weights.astype(value.dtype), value)
    return new_top, total, fade[..., None] * out + seen


def _backward_step(rules, rows, keys, values, edge, j, state):
    """Add what rows [H, N, D] and key block `j` give each other's gradients."""
    query, dout, lse, delta = rows
    dq, dk, dv = state
    key, value = keys[j], values[j]
    logits, slope = _logits(rules, query, key, edge, j)
    weights = jnp.exp(logits - lse[..., None])
    dweights = _dot("hnd,hkd->hnk", dout, value)
    dlogits = weights * (dweights - delta[..., None])
    if slope is not None:
        dlogits = dlogits * slope
    dlogits = (dlogits * rules.softmax_scale).astype(query.dtype)
    dv = dv.at[j].add(_dot("hnk,hnd->hkd", weights.astype(dout.dtype), dout))
    dk = dk.at[j].add(_dot("hnk,hnd->hkd", dlogits, query))
    return dq + _dot("hnk,hkd->hnd", dlogits, key), dk, dv


def _logits(rules, query, key, edge, j):
    """Return masked logits float32 [H, N, K] and the slope of the cap, or None."""
    logits = _dot("hnd,hkd->hnk", query, key) * rules.softmax_scale
    slope = None
    if rules.logit_cap is not None:
        bent = jnp.tanh(logits / rules.logit_cap)
        logits, slope = rules.logit_cap * bent, 1 - bent * bent
    if edge is None:
        return logits, slope
    index, segments = edge
    query_segments = key_segments = None
    if segments is not None:
        # not by [], which segments that are numpy arrays refuse of a traced index
        at = jax.lax.dynamic_index_in_dim
        query_segments = at(segments.queries, index, keepdims=False)[:, None]
        key_segments = at(segments.keys, j, keepdims=False)[None, :]
    allowed = rules_lib.visible(
        rules,
        (index * rules.block_q + jnp.arange(rules.block_q))[:, None],
        (j * rules.block_k + jnp.arange(rules.block_k))[None, :],
        query_segments,
        key_segments,
    )
    if allowed is None:
        return logits, slope
    heads, _, keys = logits.shape
    by_group = logits.reshape(heads, -1, rules.block_q, keys)
    return jnp.where(allowed, by_group, MASKED).reshape(logits.shape), slope


def _dot(equation: str, a: Array, b: Array) -> Array:
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(
        equation, a, b, precision=exact, preferred_element_type=jnp.float32
    )


class _Split:
    """Turn [B, T, heads, D] into blocks and back; see the letters above."""

    def __init__(self, rules: Rules, q: Array, k: Array, rows_differ: bool):
        self._rules = rules
        self._batch, _, self._q_heads, _ = q.shape
        self._heads = k.shape[2]
        self._rows = self._batch if rows_differ else 1

    def queries(self, x: Array) -> Array:
        """Return [R, I, H, N, D]."""
        rules = self._rules
        x = rules_lib.pad_blocks(x, rules.blocks_q, rules.block_q, 1)
        x = x.reshape(
            self._rows,
            self._batch // self._rows,
            rules.blocks_q,
            rules.block_q,
            self._heads,
            -1,
            x.shape[-1],
        )
        # -> row, block, rest of batch, head, group, token, D
        x = jnp.transpose(x, (0, 2, 1, 4, 5, 3, 6))
        size = x.shape[4] * rules.block_q
        return x.reshape(self._rows, rules.blocks_q, -1, size, x.shape[-1])

    def join_queries(self, x: Array) -> Array:
        """Undo `queries`."""
        rules = self._rules
        group = self._q_heads // self._heads
        x = x.reshape(
            self._rows,
            rules.blocks_q,
            self._batch // self._rows,
            self._heads,
            group,
            rules.block_q,
            x.shape[-1],
        )
        x = jnp.transpose(x, (0, 2, 1, 5, 3, 4, 6))
        x = x.reshape(self._batch, -1, self._q_heads, x.shape[-1])
        return x[:, : rules.queries]

    def keys(self, x: Array) -> Array:
        """Return [R, J, H, block_k, D]."""
        rules = self._rules
        x = rules_lib.pad_blocks(x, rules.blocks_k, rules.block_k, 1)
        x = x.reshape(
            self._rows,
            self._batch // self._rows,
            rules.blocks_k,
            rules.block_k,
            self._heads,
            x.shape[-1],
        )
        x = jnp.transpose(x, (0, 2, 1, 4, 3, 5))
        return x.reshape(self._rows, rules.blocks_k, -1, rules.block_k, x.shape[-1])

    def join_keys(self, x: Array) -> Array:
        """Undo `keys`."""
        rules = self._rules
        x = x.reshape(
            self._rows,
            rules.blocks_k,
            self._batch // self._rows,
            self._heads,
            rules.block_k,
            x.shape[-1],
        )
        x = jnp.transpose(x, (0, 2, 1, 4, 3, 5))
        x = x.reshape(self._batch, -1, self._heads, x.shape[-1])
        return x[:, : rules.keys]


def _ranges(rules, q_segments, kv_segments):
    """Return first, end of the whole blocks and end of key blocks, int32 [R, I] each."""
    first, end = rules_lib.key_ranges(rules, q_segments, kv_segments)
    if q_segments is None:
        full = jnp.minimum(jnp.asarray(rules_lib.leading_full_blocks(rules)), end)
    else:
        full = first
    return first, full, end


def _split_segments(rules, q_segments, kv_segments):
    if q_segments is None:
        return None
    q = rules_lib.pad_blocks(q_segments, rules.blocks_q, rules.block_q, 1)
    k = rules_lib.pad_blocks(kv_segments, rules.blocks_k, rules.block_k, 1)
    return _Segments(
        q.reshape(-1, rules.blocks_q, rules.block_q),
        k.reshape(-1, rules.blocks_k, rules.block_k),
    )


def _map(function, args):
    """Map over the first axis."""
    return _scan(lambda _, x: (None, function(x)), None, args)[1]


def _scan(step, carry, args):
    """Scan over the first axis; a loop over one would fuse with nothing around it."""
    if args[0].shape[0] > 1:
        return jax.lax.scan(step, carry, args)
    carry, out = step(carry, jax.tree.map(lambda x: x[0], args))
    return carry, jax.tree.map(lambda x: x[None], out)
