"""Attention: full within a frame, grouped-query in the decoder.

Letters: B sequences, T queries, C keys, N frames, P patches, h query heads, g key-value
heads, d channels of a head. Scores and softmax are float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.model.config import TextConfig
from soler1_jax.model.layers import Linear, RMSNorm
from soler1_jax.model.rope import rotate

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

    Returns:
      [B, T, h, d] in query's dtype.
    """
    if query.shape[1] * keys.shape[3] >= _LARGE and jax.default_backend() == "cpu":
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


class VisionAttention(nnx.Module):
    """Every patch of a frame sees every patch of the same frame."""

    def __init__(self, size: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.qkv = Linear(
            (size, 3 * size), ("embed", "heads"), use_bias=True, rngs=rngs
        )
        self.proj = Linear((size, size), ("heads", "embed"), use_bias=True, rngs=rngs)
        self.heads = heads

    def __call__(
        self, x: jax.Array, angles: jax.Array | None, mask: jax.Array | None = None
    ) -> jax.Array:
        """Maps [N, P, size] to [N, P, size].

        Args:
          x: frames.
          angles: rotary, float32 [P, d/2], or [N, P, d/2] for frames of different sizes;
            None to turn nothing.
          mask: bool [N, P], False on padding; None for none.
        """
        frames, patches, size = x.shape
        qkv = self.qkv(x).reshape(frames, patches, 3, self.heads, size // self.heads)
        query, key = qkv[:, :, 0], qkv[:, :, 1]
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        key, value = jnp.moveaxis(key, 1, -1), jnp.swapaxes(qkv[:, :, 2], 1, 2)
        out = attend(query, key, value, None if mask is None else mask[:, None])
        return self.proj(out.reshape(frames, patches, size))


class TextAttention(nnx.Module):
    """Grouped-query attention with rotary positions; queries and keys may be normed."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs) -> None:
        size, dim = config.hidden_size, config.head_dim
        wide, narrow = config.num_heads * dim, config.num_kv_heads * dim
        self.q_proj = Linear(
            (size, wide), ("embed", "heads"), use_bias=False, rngs=rngs
        )
        self.k_proj = Linear(
            (size, narrow), ("embed", "kv_heads"), use_bias=False, rngs=rngs
        )
        self.v_proj = Linear(
            (size, narrow), ("embed", "kv_heads"), use_bias=False, rngs=rngs
        )
        self.o_proj = Linear(
            (wide, size), ("heads", "embed"), use_bias=False, rngs=rngs
        )
        if config.qk_norm:
            offset = config.norm_offset
            self.q_norm = RMSNorm(dim, config.norm_eps, offset=offset)
            self.k_norm = RMSNorm(dim, config.norm_eps, offset=offset)
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        angles: jax.Array,
        mask: jax.Array,
        cache: LayerCache | None = None,
        index: jax.Array | int = 0,
    ) -> tuple[jax.Array, LayerCache]:
        """Attends over x itself, or over a cache into which x is written first.

        Args:
          x: [B, T, D].
          angles: float32 [B, T, d/2].
          mask: bool [B, T, C]; C is T without a cache, else the cache's capacity. It is
            causal without a cache if `prefix_attention` is.
          cache: keys and values so far.
          index: where in the cache x goes.

        Returns:
          [B, T, D], and the keys and values (of x alone, or the updated cache).
        """
        batch, length, _ = x.shape
        config = self.config
        shape = (batch, length, -1, config.head_dim)
        query, key = self.q_proj(x).reshape(shape), self.k_proj(x).reshape(shape)
        if config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query = rotate(query, angles)
        key = jnp.moveaxis(rotate(key, angles), 1, -1)
        value = jnp.swapaxes(self.v_proj(x).reshape(shape), 1, 2)
        if cache is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cache.keys, key, index, axis=3)
            value = jax.lax.dynamic_update_slice_in_dim(
                cache.values, value, index, axis=2
            )
        out = attend(
            query,
            key,
            value,
            mask,
            divisor=config.query_pre_attn_scalar,
            cap=config.attn_logit_softcapping,
            causal=cache is None and config.prefix_attention == "causal",
        )
        return self.o_proj(out.reshape(batch, length, -1)), LayerCache(key, value)
