"""Attention of one new token a sequence against a key-value cache: the entry point.

The cache has a static capacity, each sequence its own length. What lies beyond a length
is neither used nor, block by block, read.

Dimension letters: B sequences, T cache capacity, Hq and Hkv heads, D head size.
"""

import jax
import jax.numpy as jnp
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.decode_attention import gpu, tpu, xla

__all__ = ["decode_attention"]

Array = jax.Array

_NAME = "decode_attention"
_SUPPORTED = ("xla", "pallas_tpu", "pallas_gpu", "interpret", "cudnn")
_DTYPES = ("float32", "bfloat16")
_NARROW = ("int8", "float8_e4m3fn", "float8_e5m2")


def decode_attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    *,
    softmax_scale: float | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    logit_cap: float | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> Array | tuple[Array, Array]:
    """Return softmax attention of one query a sequence. It has no gradient.

    Sums and softmax are float32 whatever the arguments are; float32 products are exact
    to float32 on every platform.

    Args:
      q: float32 or bfloat16 [B, Hq, D].
      k_cache, v_cache: [B, T, Hkv, D], both of the dtype of q or both of int8,
        float8_e4m3fn or float8_e5m2. Hkv divides Hq, and query head h reads key head
        h // (Hq // Hkv).
      lengths: int32 [B], how many keys of each sequence count; clipped to [0, T]. A
        sequence of length 0 gives 0. What the caches hold beyond it may be anything.
      softmax_scale: factor of the logits; None for D**-0.5.
      k_scale, v_scale: float32 [Hkv] or [B, Hkv], what keys and values are to be
        multiplied with; None for 1. An int8 cache needs both.
      logit_cap: c of c * tanh(logit / c), as in Gemma 2; None for no cap.
      return_lse: also return the log of the softmax's normaliser, so that results over
        parts of the keys can be merged (`flash_attention.api.merge_partials`).
      implementation: "xla", "pallas_tpu", "interpret" (the latter on any machine),
        "pallas_gpu" (bfloat16 on Hopper GPUs, without scales; finite caches), "cudnn"
        (`jax.nn.dot_product_attention` with that backend: bfloat16 on NVIDIA, without
        scales, cap or log-normaliser), or None, which is "pallas_tpu" on TPU and "xla"
        elsewhere.

    Returns:
      [B, Hq, D] in the dtype of q; with `return_lse` also float32 [B, Hq], which is -inf
      at length 0.

    Raises:
      ValueError: shapes, dtypes or options do not fit together; or a gradient is asked
        for: decoding learns nothing, `flash_attention` has gradients.
    """
    name = dispatch.choose_implementation(_NAME, implementation, _SUPPORTED)
    _check(q, k_cache, v_cache, lengths, k_scale, v_scale, logit_cap)
    q, k_cache, v_cache = _without_gradient((q, k_cache, v_cache))
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)
    lengths = jnp.clip(lengths, 0, k_cache.shape[1])
    if name == "cudnn":
        _check_cudnn(q, k_cache, k_scale, v_scale, logit_cap, return_lse)
        out = jax.nn.dot_product_attention(
            q[:, None],
            k_cache,
            v_cache,
            scale=scale,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
        return jnp.where((lengths > 0)[:, None, None], out[:, 0], 0)
    if name == "pallas_gpu":
        _check_gpu(q, k_cache, k_scale, v_scale)
        out, lse = gpu.attend(
            q, k_cache, v_cache, lengths, softmax_scale=scale, logit_cap=logit_cap
        )
        return (out, lse) if return_lse else out
    options = {
        "softmax_scale": scale,
        "k_scale": _by_sequence(k_scale, k_cache),
        "logit_cap": None if logit_cap is None else float(logit_cap),
        "out_dtype": q.dtype if v_scale is None else jnp.float32,
        "return_lse": return_lse,
    }
    if name == "xla":
        out, lse = xla.attend(q, k_cache, v_cache, lengths, **options)
    else:
        interpret = dispatch.interpret_params(name)
        out, lse = tpu.attend(
            q, k_cache, v_cache, lengths, interpret=interpret, **options
        )
    if v_scale is not None:
        group = q.shape[1] // v_cache.shape[2]
        factor = jnp.repeat(_by_sequence(v_scale, v_cache), group, axis=1)
        out = (out * factor[..., None]).astype(q.dtype)
    return (out, lse) if return_lse else out


def _by_sequence(scale: Array | None, cache: Array) -> Array | None:
    """Return a scale as [B, Hkv]."""
    if scale is None:
        return None
    return jnp.broadcast_to(scale, (cache.shape[0], cache.shape[2]))


@jax.custom_jvp
def _without_gradient(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return arrays


@_without_gradient.defjvp
def _refuse_gradient(primals: tuple, tangents: tuple) -> None:
    raise ValueError(
        "decode_attention has no gradient; got a call that is differentiated; use"
        " flash_attention, or jax.lax.stop_gradient on q and the caches"
    )


def _check(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    k_scale: Array | None,
    v_scale: Array | None,
    logit_cap: float | None,
) -> None:
    sizes: dict[str, int] = {}
    dispatch.require_shape("q", q, "B Hq D", sizes)
    dispatch.require_shape("k_cache", k_cache, "B T Hkv D", sizes)
    dispatch.require_shape("v_cache", v_cache, "B T Hkv D", sizes)
    dispatch.require_shape("lengths", lengths, "B", sizes)
    for letter, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"{letter} must be at least 1; got {size}; leave the call out"
            )
    dispatch.require_groups(sizes["Hq"], sizes["Hkv"])
    dispatch.require_dtype("q", q, _DTYPES)
    dispatch.require_dtype("k_cache", k_cache, (q.dtype.name, *_NARROW))
    dispatch.require_dtype("v_cache", v_cache, (k_cache.dtype.name,))
    dispatch.require_dtype("lengths", lengths, ("int32",))
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if scale is None:
            if k_cache.dtype == jnp.int8:
                raise ValueError(
                    f"an int8 cache needs k_scale and v_scale; got no {name}; pass what"
                    " the cache was divided by"
                )
            continue
        letters = "Hkv" if jnp.ndim(scale) == 1 else "B Hkv"
        dispatch.require_shape(name, scale, letters, sizes)
        dispatch.require_dtype(name, scale, ("float32",))
    if logit_cap is not None and not logit_cap > 0:
        raise ValueError(
            f"logit_cap must be positive; got {logit_cap}; leave it out for no cap"
        )


def _check_gpu(
    q: Array, k_cache: Array, k_scale: Array | None, v_scale: Array | None
) -> None:
    dispatch.require_hopper_operands(q, gpu.MAX_SIZE)
    if k_cache.dtype != q.dtype or k_scale is not None or v_scale is not None:
        raise ValueError(
            f"'pallas_gpu' reads bfloat16 caches without scales; got {k_cache.dtype.name}"
            " or scales; use 'xla'"
        )


def _check_cudnn(
    q: Array,
    k_cache: Array,
    k_scale: Array | None,
    v_scale: Array | None,
    logit_cap: float | None,
    return_lse: bool,
) -> None:
    if q.dtype != jnp.bfloat16 or k_cache.dtype != jnp.bfloat16:
        raise ValueError(
            f"'cudnn' computes in bfloat16; got q {q.dtype.name} and caches"
            f" {k_cache.dtype.name}; convert them or use 'xla'"
        )
    if (
        k_scale is not None
        or v_scale is not None
        or logit_cap is not None
        or return_lse
    ):
        raise ValueError(
            "'cudnn' decodes without k_scale, v_scale, logit_cap and return_lse; got at"
            " least one of them; use 'xla'"
        )
