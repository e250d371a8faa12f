"""Softmax attention with grouped heads under a mask, and the cache of its keys.

Letters: B sequences, T queries, C keys, h query heads, g key-value heads, d channels of a
head. Scores and softmax are float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a row without any allowed key is uniform and not NaN.
MASKED = -1e30
# On a CPU: scores of a head that are dealt with in blocks, scores of such a block, and
# queries of a causal one.
_LARGE, _BLOCK, _CAUSAL_QUERIES = 2**18, 2**20, 256
# Elsewhere: scores that are held at once, 64 MB of them.
MOST_SCORES = 1 << 24
# Sequences with fewer keys are not cut: with many scores, it is their batch that is large.
LONG = 2048


class LayerCache(NamedTuple):
    """Keys and values of one layer.

    Keys lie so that scores and sums are plain matrix products: on one CPU core the
    scores of one token took 0.49 ms so, and 2.14 ms with keys [B, g, C, d] (B 8, g 4,
    two queries a head, C 970, d 64).
    """

    keys: jax.Array  # [B, g, d, C]
    values: jax.Array  # [B, g, C, d]

    @staticmethod
    def lay(keys: jax.Array, values: jax.Array) -> "LayerCache":
        """Makes one of [B, C, g, d]."""
        return LayerCache(jnp.moveaxis(keys, 1, -1), jnp.swapaxes(values, 1, 2))

    def write(
        self, key: jax.Array, value: jax.Array, index: jax.Array | int
    ) -> "LayerCache":
        """Puts those of T tokens, [B, T, g, d], into the places from `index` on."""
        new, update = self.lay(key, value), jax.lax.dynamic_update_slice_in_dim
        return LayerCache(
            update(self.keys, new.keys, index, axis=3),
            update(self.values, new.values, index, axis=2),
        )


def on_cpu(implementation: str | None) -> bool:
    """Whether to lay out for a CPU what must be known while tracing.

    Args:
      implementation: `ModelConfig.attention`; one that is not a CPU's says no, so that a
        CPU can compile for a TPU.
    """
    return implementation in (None, "xla") and jax.default_backend() == "cpu"


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """Bounds x smoothly to (-cap, cap): cap tanh(x / cap); None for no bound.

    Source: Gemma 2 (arXiv 2408.00118), section 2.
    """
    return x if cap is None else cap * jnp.tanh(x / cap)


def attend(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None,
    *,
    divisor: float | None = None,
    cap: float | None = None,
    causal: bool = False,
    blocks: bool | None = None,
) -> jax.Array:
    """Softmax attention with grouped heads.

    Where sequences are long, queries take turns, so that memory grows with T + C and not
    with T * C. On a CPU they do so block by block, and earlier: scores that leave its
    cache cost more than their products. One core took 28 ms for a frame (4 heads, 1024
    patches, d 64), 12 ms so.

    Args:
      query: [B, T, h, d].
      keys: [B, g, d, C]; g divides h.
      values: [B, g, C, d].
      mask: bool [B, T, C] or [B, 1, C], True where a query may look; None for
        everywhere.
      divisor: scores are divided by its root; None for d.
      cap: of `soft_cap` on the scores.
      causal: whether `mask` hides from each query all keys at later places, so that they
        need not be looked at; T is C then.
      blocks: whether to go block by block where that suits a CPU; None for whether the
        default backend is one.

    Returns:
      [B, T, h, d] in query's dtype.
    """
    blocks = on_cpu(None) if blocks is None else blocks
    if blocks and query.shape[1] * keys.shape[3] >= _LARGE:
        return _attend_in_blocks(query, keys, values, mask, divisor, cap, causal)
    batch, length, heads, _ = query.shape
    places = keys.shape[3]
    rows = max(1, MOST_SCORES // (batch * heads * places))
    if length <= rows or places < LONG:
        return _attend_all(query, keys, values, mask, divisor, cap)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (batch, length, places))

    # Recomputed in the backward pass, which would keep all scores otherwise.
    @jax.checkpoint
    def one(row: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        q, m = jax.tree.map(lambda x: x[:, None], row)
        return _attend_all(q, keys, values, m, divisor, cap)[:, 0]

    by_query = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (query, mask))
    return jnp.swapaxes(jax.lax.map(one, by_query, batch_size=rows), 0, 1)


def _attend_all(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None,
    divisor: float | None,
    cap: float | None,
) -> jax.Array:
    """`attend` with all scores at once."""
    batch, length, heads, size = query.shape
    groups = keys.shape[1]
    # One matrix a key-value head, of all queries that share it.
    rows = jnp.swapaxes(query, 1, 2).reshape(batch, groups, -1, size)
    scores = jnp.matmul(rows, keys, preferred_element_type=jnp.float32)
    scores = soft_cap(scores * (divisor or size) ** -0.5, cap)
    if mask is not None:
        scores = scores.reshape(batch, groups, heads // groups, length, -1)
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        scores = scores.reshape(*rows.shape[:3], -1)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    out = jnp.matmul(weights, values, preferred_element_type=jnp.float32)
    out = out.reshape(batch, heads, length, size).astype(query.dtype)
    return jnp.swapaxes(out, 1, 2)


def _attend_in_blocks(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array | None,
    divisor: float | None,
    cap: float | None,
    causal: bool,
) -> jax.Array:
    """`attend`, one key-value head and some of its queries at a time."""
    batch, length, heads, size = query.shape
    groups, places = keys.shape[1], keys.shape[3]
    grouped = jnp.swapaxes(query, 1, 2).reshape(batch, groups, -1, length, size)
    step = max(1, _BLOCK // (heads // groups * places))
    step = min(step, _CAUSAL_QUERIES) if causal else step

    # Recomputed in the backward pass, which would keep all scores otherwise.
    @jax.checkpoint
    def head(query: jax.Array, keys: jax.Array, values: jax.Array, mask: Any) -> Any:
        """[r, T, d], [d, C], [C, d], bool [T, C] or [1, C] -> [r, T, d]."""
        out = []
        for low in range(0, length, step):
            high = min(low + step, length)
            end = high if causal else places
            rows = query[:, low:high].reshape(-1, size)
            scores = jnp.dot(rows, keys[:, :end], preferred_element_type=jnp.float32)
            scores = soft_cap(scores * (divisor or size) ** -0.5, cap)
            scores = scores.reshape(-1, high - low, end)
            if mask is not None:
                seen = mask if mask.shape[0] == 1 else mask[low:high]
                scores = jnp.where(seen[:, :end], scores, MASKED)
            top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
            weights = jnp.exp(scores - top)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            weights = weights.astype(values.dtype).reshape(-1, end)
            summed = jnp.dot(weights, values[:end], preferred_element_type=jnp.float32)
            # Divided last: sums are fewer than weights.
            out.append(summed.reshape(-1, high - low, size) / total)
        return jnp.concatenate(out, axis=1).astype(query.dtype)

    def sequence(xs: tuple) -> jax.Array:
        query, keys, values, mask = xs
        return jax.lax.map(lambda x: head(*x, mask), (query, keys, values))

    out = jax.lax.map(sequence, (grouped, keys, values, mask))
    return jnp.swapaxes(out.reshape(batch, heads, length, size), 1, 2)
