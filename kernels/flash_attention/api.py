"""Softmax attention without the matrix of logits: the entry point.

Memory grows with the length of the sequences, forward and backward. Blocks of queries
and keys between which nothing is allowed are skipped, not masked: the upper triangle of
causal attention, and what lies between the segments of packed rows or the frames of a
video.

Dimension letters: B batch, Tq and Tk lengths, Hq and Hkv heads, D head size.
"""

import functools

import jax
import jax.numpy as jnp
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import program

__all__ = ["flash_attention", "merge_partials"]

Array = jax.Array

_NAME = "flash_attention"
_SUPPORTED = ("xla", "pallas_tpu", "pallas_gpu", "interpret", "cudnn")
_DTYPES = ("float32", "bfloat16")


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
    return_lse: bool = False,
    implementation: str | None = None,
    blocks: tuple[int, int] | None = None,
) -> Array | tuple[Array, Array]:
    """Return softmax attention, differentiable with respect to q, k and v.

    Sums and softmax are float32 whatever the arguments are; float32 products are exact
    to float32 on every platform. A query without any allowed key gives 0.

    Args:
      q: float32 or bfloat16 [B, Tq, Hq, D].
      k, v: of the same dtype, [B, Tk, Hkv, D]; Hkv divides Hq, and query head h reads
        key head h // (Hq // Hkv).
      causal: hide later keys. Positions count from the end: query i sees key j if
        j <= i + Tk - Tq, as in flash-attn from 2.1 on. (`jax.nn.dot_product_attention`
        counts from the start, which differs where Tq and Tk do.)
      q_segments, kv_segments: int32 [B, Tq] and [B, Tk], both or neither: queries see
        keys of their own segment only, and 0 or less, which is padding, sees and is seen
        by nothing. Any order is right; sorted segments let blocks be skipped.
      softmax_scale: factor of the logits; None for D**-0.5.
      logit_cap: c of c * tanh(logit / c), as in Gemma 2; None for no cap.
      return_lse: also return the log of the softmax's normaliser, differentiable too, so
        that results over parts of the keys can be merged (`merge_partials`).
      implementation: "xla", "pallas_tpu", "interpret" (the latter on any machine),
        "pallas_gpu" (bfloat16 on Hopper GPUs, heads up to 256; gradients of heads beyond
        128 are those of "xla"), "cudnn" (`jax.nn.dot_product_attention` with that
        backend: bfloat16 on NVIDIA, without segments, cap, log-normaliser or causal
        unequal lengths), or None, which is "pallas_tpu" on TPU, "pallas_gpu" where it can
        be and "xla" elsewhere. The platform is the one for which the program is compiled;
        with `blocks`, the default backend.
      blocks: queries and keys of a block; None chooses. Multiples of 128 on TPU.

    Returns:
      [B, Tq, Hq, D] in the dtype of q; with `return_lse` also float32 [B, Tq, Hq], which
      is -inf where nothing is allowed.

    Raises:
      ValueError: shapes, dtypes or options do not fit together.
    """
    if implementation is None and blocks is None:
        name = program.BY_PLATFORM
    else:
        name = dispatch.choose_implementation(_NAME, implementation, _SUPPORTED)
    _check(q, k, v, q_segments, kv_segments, logit_cap)
    if name == "cudnn":
        _check_cudnn(q, k, causal, q_segments, logit_cap, return_lse)
        return jax.nn.dot_product_attention(
            q, k, v, scale=softmax_scale, is_causal=causal, implementation="cudnn"
        )
    if name == "pallas_gpu":
        dispatch.require_hopper_operands(q, program.HOPPER_MAX_SIZE)
    rules = program.plan(
        name,
        q,
        k,
        causal=causal,
        segments=q_segments is not None,
        softmax_scale=softmax_scale,
        logit_cap=logit_cap,
        blocks=blocks,
    )
    out, lse = _attend(name, rules, q, k, v, q_segments, kv_segments)
    return (out, lse) if return_lse else out


def merge_partials(
    out_a: Array, lse_a: Array, out_b: Array, lse_b: Array
) -> tuple[Array, Array]:
    """Return attention over the union of two sets of keys from attention over each.

    Args:
      out_a, out_b: [..., D], of the same dtype.
      lse_a, lse_b: float32 [...], log-normalisers; -inf for a set without allowed key.

    Returns:
      What `flash_attention` with `return_lse` gives for all keys at once.
    """
    top = jax.lax.stop_gradient(jnp.maximum(lse_a, lse_b))
    some = top > -jnp.inf
    top = jnp.where(some, top, 0)
    weight_a, weight_b = jnp.exp(lse_a - top), jnp.exp(lse_b - top)
    total = jnp.where(some, weight_a + weight_b, 1)
    out = (
        out_a.astype(jnp.float32) * (weight_a / total)[..., None]
        + out_b.astype(jnp.float32) * (weight_b / total)[..., None]
    )
    lse = jnp.where(some, top + jnp.log(total), -jnp.inf)
    return out.astype(out_a.dtype), lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(name, rules, q, k, v, q_segments, kv_segments):
    return program.forward(name, rules, q, k, v, q_segments, kv_segments)


def _attend_forward(name, rules, q, k, v, q_segments, kv_segments):
    results = program.forward(name, rules, q, k, v, q_segments, kv_segments)
    out, lse = program.named(*results)
    return (out, lse), (q, k, v, q_segments, kv_segments, out, lse)


def _attend_backward(name, rules, residuals, gradients):
    return *program.backward(name, rules, *residuals, *gradients), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _check(q, k, v, q_segments, kv_segments, logit_cap) -> None:
    sizes: dict[str, int] = {}
    dispatch.require_shape("q", q, "B Tq Hq D", sizes)
    dispatch.require_shape("k", k, "B Tk Hkv D", sizes)
    dispatch.require_shape("v", v, "B Tk Hkv D", sizes)
    dispatch.require_groups(sizes["Hq"], sizes["Hkv"])
    for letter, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"{letter} must be 1 or more; got {size}; leave the call out where there"
                " is nothing to attend to"
            )
    dispatch.require_dtype("q", q, _DTYPES)
    dispatch.require_dtype("k", k, (q.dtype.name,))
    dispatch.require_dtype("v", v, (q.dtype.name,))
    if (q_segments is None) != (kv_segments is None):
        raise ValueError(
            "q_segments and kv_segments must come together; got one; pass ones for the"
            " other if it has no padding"
        )
    if q_segments is not None:
        dispatch.require_shape("q_segments", q_segments, "B Tq", sizes)
        dispatch.require_shape("kv_segments", kv_segments, "B Tk", sizes)
        dispatch.require_dtype("q_segments", q_segments, ("int32",))
        dispatch.require_dtype("kv_segments", kv_segments, ("int32",))
    if logit_cap is not None and not logit_cap > 0:
        raise ValueError(
            f"logit_cap must be positive; got {logit_cap}; pass None for no cap"
        )


def _check_cudnn(q, k, causal, q_segments, logit_cap, return_lse) -> None:
    refused = {
        f"dtype {q.dtype.name}": q.dtype != jnp.bfloat16,
        "segments": q_segments is not None,
        "logit_cap": logit_cap is not None,
        "return_lse": return_lse,
        "causal with Tq != Tk": causal and q.shape[1] != k.shape[1],
        f"the platform {jax.default_backend()}": jax.default_backend() != "gpu",
    }
    found = [what for what, holds in refused.items() if holds]
    if found:
        raise ValueError(
            "implementation 'cudnn' takes bfloat16 on NVIDIA, causal or full; got"
            f" {', '.join(found)}; use 'xla'"
        )
