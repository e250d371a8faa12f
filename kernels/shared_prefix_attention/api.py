"""Causal attention over a prompt (prefix) and the G answers (suffixes) to it.

The queries of all suffixes of a prompt are one long query axis that reads the prompt's
keys once; each suffix reads itself causally; the two parts are merged by their
log-normalisers. The results and gradients are those of attention over G copies of the
prompt, each with its suffix behind it, up to rounding (Liu et al. 2025, arXiv
2506.05433, has the idea of the split).

Dimension letters: B prompts, G suffixes a prompt, P and S lengths, Hq and Hkv heads, D
head size.
"""

import functools

import jax
import jax.numpy as jnp
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import api as flash

__all__ = ["shared_prefix_attention"]

Array = jax.Array

_NAME = "shared_prefix_attention"
_SUPPORTED = ("xla", "pallas_tpu", "interpret")
_MISSING = {
    "pallas_gpu": "on NVIDIA use 'xla'",
    "cudnn": "cuDNN gives no differentiable log-normaliser; use 'xla'",
}


def shared_prefix_attention(
    q_prefix: Array,
    k_prefix: Array,
    v_prefix: Array,
    q_suffix: Array,
    k_suffix: Array,
    v_suffix: Array,
    *,
    suffix_lengths: Array | None = None,
    softmax_scale: float | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Return attention of prefixes and suffixes, differentiable in all six arrays.

    Positions are the caller's: rotate suffix queries and keys as tokens P, P + 1, ...

    Args:
      q_prefix: float32 or bfloat16 [B, P, Hq, D].
      k_prefix, v_prefix: [B, P, Hkv, D]; Hkv divides Hq. No padding.
      q_suffix: [B, G, S, Hq, D].
      k_suffix, v_suffix: [B, G, S, Hkv, D].
      suffix_lengths: int32 [B, G] in 0..S; tokens from there on are padding, which sees
        and is seen by nothing and gives 0. None: all are S.
      softmax_scale: factor of the logits; None for D**-0.5.
      implementation: "xla", "pallas_tpu", "interpret" or None, as for `flash_attention`.

    Returns:
      [B, P, Hq, D] and [B, G, S, Hq, D], in the dtype of q_prefix.

    Raises:
      ValueError: shapes, dtypes or options do not fit together.
    """
    name = dispatch.choose_implementation(_NAME, implementation, _SUPPORTED, _MISSING)
    prefix, suffix = (q_prefix, k_prefix, v_prefix), (q_suffix, k_suffix, v_suffix)
    _check(prefix, suffix, suffix_lengths)
    attend = functools.partial(
        flash.flash_attention, softmax_scale=softmax_scale, implementation=name
    )
    batch, group, length = q_suffix.shape[:3]

    out_prefix = attend(*prefix, causal=True)
    segments, valid = {}, None
    if suffix_lengths is not None:
        valid = jnp.arange(length) < suffix_lengths[..., None]
        valid = valid.astype(jnp.int32)
        segments = {
            "q_segments": valid.reshape(batch, -1),
            "kv_segments": jnp.ones(k_prefix.shape[:2], jnp.int32),
        }
    long_queries = q_suffix.reshape(batch, group * length, *q_suffix.shape[3:])
    of_prefix = attend(long_queries, k_prefix, v_prefix, return_lse=True, **segments)

    if valid is not None:
        own = valid.reshape(batch * group, length)
        segments = {"q_segments": own, "kv_segments": own}
    members = (x.reshape(batch * group, length, *x.shape[3:]) for x in suffix)
    of_suffix = attend(*members, causal=True, return_lse=True, **segments)

    parts = [
        x.reshape(batch, group, length, *x.shape[2:]) for x in (*of_prefix, *of_suffix)
    ]
    out_suffix, _ = flash.merge_partials(*parts)
    return out_prefix, out_suffix


def _check(prefix, suffix, suffix_lengths) -> None:
    sizes: dict[str, int] = {}
    letters = ("Hq", "Hkv", "Hkv")
    for name, x, heads in zip("qkv", prefix, letters, strict=True):
        dispatch.require_shape(f"{name}_prefix", x, f"B P {heads} D", sizes)
    for name, x, heads in zip("qkv", suffix, letters, strict=True):
        dispatch.require_shape(f"{name}_suffix", x, f"B G S {heads} D", sizes)
        dispatch.require_dtype(f"{name}_suffix", x, (prefix[0].dtype.name,))
    if suffix_lengths is not None:
        dispatch.require_shape("suffix_lengths", suffix_lengths, "B G", sizes)
        dispatch.require_dtype("suffix_lengths", suffix_lengths, ("int32",))
