"""The plain implementation: the whole score matrix, masked.

Dimension letters: B sequences, T cache capacity, H query heads, K key-value heads, D head
size.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def attend(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    *,
    softmax_scale: float,
    k_scale: Array | None = None,
    logit_cap: float | None = None,
    out_dtype: jnp.dtype | None = None,
    return_lse: bool = False,
) -> tuple[Array, Array | None]:
    """Return attention and lse; arguments as for `tpu.attend`.

    Everything is computed in float32, or in float64 where q is.
    """
    batch, heads, dim = q.shape
    capacity, kv_heads = k_cache.shape[1:3]
    exact = jnp.promote_types(q.dtype, jnp.float32)
    grouped = q.astype(exact).reshape(batch, kv_heads, -1, dim)
    k, v = k_cache.astype(exact), v_cache.astype(exact)
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("bkgd,btkd->bkgt", grouped, k, precision=highest)
    scores = scores * softmax_scale
    if k_scale is not None:
        scores = scores * k_scale.astype(exact)[:, :, None, None]
    if logit_cap is not None:
        scores = logit_cap * jnp.tanh(scores / logit_cap)
    seen = (jnp.arange(capacity) < lengths[:, None])[:, None, None]
    scores = jnp.where(seen, scores, -jnp.inf)
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(exact).min)
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    v = jnp.where(seen[:, 0, 0, :, None, None], v, 0)
    out = jnp.einsum("bkgt,btkd->bkgd", weights, v, precision=highest)
    out = out.reshape(q.shape).astype(out_dtype or q.dtype)
    lse = (peak + jnp.log(total)).reshape(batch, heads) if return_lse else None
    return out, lse
