"""Shared-prefix attention as what it stands for: attention over G full copies."""

import jax
import jax.numpy as jnp
from soler1_jax.kernels.flash_attention import reference as flash

Array = jax.Array


def copies(prefix: Array, suffix: Array) -> Array:
    """Return [B * G, P + S, ...]: every suffix behind its own copy of the prefix."""
    batch, group = suffix.shape[:2]
    shape = (batch, group, *prefix.shape[1:])
    prefix = jnp.broadcast_to(prefix[:, None], shape)
    joined = jnp.concatenate([prefix, suffix], axis=2)
    return joined.reshape(batch * group, *joined.shape[2:])


def shared_prefix_attention(
    q_prefix: Array,
    k_prefix: Array,
    v_prefix: Array,
    q_suffix: Array,
    k_suffix: Array,
    v_suffix: Array,
    *,
    prefix_lengths: Array | None = None,
    suffix_lengths: Array | None = None,
    softmax_scale: float | None = None,
) -> tuple[Array, Array]:
    """Take and return what `api.shared_prefix_attention` does, in any precision."""
    batch, group, length = q_suffix.shape[:3]
    prefix_length = q_prefix.shape[1]
    if prefix_lengths is None:
        prefix_lengths = jnp.full(batch, prefix_length)
    if suffix_lengths is None:
        suffix_lengths = jnp.full((batch, group), length)
    there = [
        jnp.arange(prefix_length) < prefix_lengths[:, None],
        jnp.arange(length) < suffix_lengths[..., None],
    ]
    segments = copies(*there).astype(jnp.int32)
    out, _ = flash.flash_attention(
        copies(q_prefix, q_suffix),
        copies(k_prefix, k_suffix),
        copies(v_prefix, v_suffix),
        causal=True,
        q_segments=segments,
        kv_segments=segments,
        softmax_scale=softmax_scale,
    )
    out = out.reshape(batch, group, *out.shape[1:])
    return out[:, 0, :prefix_length], out[:, :, prefix_length:]
