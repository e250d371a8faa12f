"""Attention written down plainly, at whatever precision the arguments have."""

import jax
import jax.numpy as jnp

Array = jax.Array


def flash_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    q_segments: Array | None = None,
    kv_segments: Array | None = None,
    softmax_scale: float | None = None,
    logit_cap: float | None = None,
) -> tuple[Array, Array]:
    """Return attention and the log of its normaliser, with all logits in memory.

    Takes what `api.flash_attention` takes; differentiable where every row sees a key.

    Returns:
      [B, Tq, Hq, D] and [B, Tq, Hq], in the dtype of the arguments.
    """
    group = q.shape[2] // k.shape[2]
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    precise = jax.lax.Precision.HIGHEST
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=precise) * scale
    if logit_cap is not None:
        logits = logit_cap * jnp.tanh(logits / logit_cap)
    allowed = mask(q.shape[1], k.shape[1], causal, q_segments, kv_segments)
    logits = jnp.where(allowed, logits, -jnp.inf)
    lse = jax.scipy.special.logsumexp(logits, axis=-1, keepdims=True)
    empty = ~jnp.any(allowed, axis=-1, keepdims=True)
    weights = jnp.where(empty, 0, jnp.exp(logits - jnp.where(empty, 0, lse)))
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=precise)
    return out, jnp.swapaxes(lse[..., 0], 1, 2)


def mask(
    queries: int,
    keys: int,
    causal: bool,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> Array:
    """Return which pairs are allowed, bool [B or 1, 1, Tq, Tk]."""
    allowed = jnp.ones((1, 1, queries, keys), bool)
    if causal:
        allowed = jnp.tril(allowed, keys - queries)
    if q_segments is not None:
        same = q_segments[:, None, :, None] == kv_segments[:, None, None, :]
        allowed = allowed & same & (kv_segments > 0)[:, None, None, :]
    return allowed
