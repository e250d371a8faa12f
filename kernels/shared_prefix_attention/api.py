"""Causal attention over a prompt (prefix) and the G answers (suffixes) to it.

The queries of all suffixes of a prompt are one long query axis that reads the prompt's
keys once; each suffix reads itself causally; the two parts are merged by their
log-normalisers. The backward pass needs the merged output and log-normaliser only. The
results and gradients are those of attention over G copies of the prompt, each with its
suffix behind it, up to rounding (Liu et al. 2025, arXiv 2506.05433, has the idea of the
split).

Dimension letters: B prompts, G suffixes a prompt, P and S lengths, Hq and Hkv heads, D
head size.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import api as flash
from soler1_jax.kernels.flash_attention import program

__all__ = ["shared_prefix_attention"]

Array = jax.Array

_NAME = "shared_prefix_attention"
_SUPPORTED = ("xla", "pallas_tpu", "pallas_gpu", "interpret")
_MISSING = {
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
    prefix_lengths: Array | None = None,
    suffix_lengths: Array | None = None,
    softmax_scale: float | None = None,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Return attention of prefixes and suffixes, differentiable in all six arrays.

    Positions are the caller's: rotate suffix queries and keys as the tokens that follow
    the prefix.

    Args:
      q_prefix: float32 or bfloat16 [B, P, Hq, D].
      k_prefix, v_prefix: [B, P, Hkv, D]; Hkv divides Hq.
      q_suffix: [B, G, S, Hq, D].
      k_suffix, v_suffix: [B, G, S, Hkv, D].
      prefix_lengths: int32 [B] in 0..P; tokens from there on are padding, which sees
        and is seen by nothing and gives 0. None: all are P.
      suffix_lengths: int32 [B, G] in 0..S, likewise. None: all are S.
      softmax_scale: factor of the logits; None for D**-0.5.
      implementation: "xla", "pallas_tpu", "pallas_gpu", "interpret" or None, as for
        `flash_attention`.

    Returns:
      [B, P, Hq, D] and [B, G, S, Hq, D], in the dtype of q_prefix.

    Raises:
      ValueError: shapes, dtypes or options do not fit together.
    """
    if implementation is None and program.suits_hopper(q_prefix):
        implementation = "pallas_gpu"
    name = dispatch.choose_implementation(_NAME, implementation, _SUPPORTED, _MISSING)
    prefix, suffix = (q_prefix, k_prefix, v_prefix), (q_suffix, k_suffix, v_suffix)
    _check(prefix, suffix, prefix_lengths, suffix_lengths)
    if name == "pallas_gpu":
        dispatch.require_hopper_operands(q_prefix, program.HOPPER_MAX_SIZE)
    scale = None if softmax_scale is None else float(softmax_scale)
    return _attend(name, scale, *prefix, *suffix, prefix_lengths, suffix_lengths)


class _Parts(NamedTuple):
    """The two sets of keys that suffix queries see, as calls of flash attention.

    Attributes:
      prefix: queries [B, G * S, ...] on the prompt's keys; rules, arrays and segments.
      own: queries [B * G, S, ...] on the keys of their suffix, likewise.
    """

    prefix: tuple
    own: tuple


def _parts(name, scale, k_prefix, v_prefix, q_suffix, k_suffix, v_suffix, *lengths):
    batch, group, length = q_suffix.shape[:3]
    long = q_suffix.reshape(batch, group * length, *q_suffix.shape[3:])
    members = [
        x.reshape(batch * group, length, *x.shape[3:])
        for x in (q_suffix, k_suffix, v_suffix)
    ]
    of_prefix = of_own = (None, None)
    if any(x is not None for x in lengths):
        prefix = _segments(lengths[0], k_prefix.shape[:2])
        valid = _segments(lengths[1], (batch, group, length))
        of_prefix = (valid.reshape(batch, -1), prefix)
        of_own = (valid.reshape(batch * group, length),) * 2
    segments = of_own[0] is not None
    plan = functools.partial(program.plan, name, segments=segments, softmax_scale=scale)
    return _Parts(
        (plan(long, k_prefix, causal=False), long, k_prefix, v_prefix, *of_prefix),
        (plan(*members[:2], causal=True), *members, *of_own),
    )


def _plan_prefix(name, scale, q_prefix, k_prefix, prefix_lengths):
    return program.plan(
        name,
        q_prefix,
        k_prefix,
        causal=True,
        segments=prefix_lengths is not None,
        softmax_scale=scale,
    )


def _segments(lengths, shape):
    """1 on what is there and 0 on padding: int32 of a shape whose last axis is places."""
    if lengths is None:
        return jnp.ones(shape, jnp.int32)
    return (jnp.arange(shape[-1]) < lengths[..., None]).astype(jnp.int32)


def _of_prefix(prefix_lengths, k_prefix):
    """Segments of a prefix' queries and keys; None without padding."""
    if prefix_lengths is None:
        return None, None
    return (_segments(prefix_lengths, k_prefix.shape[:2]),) * 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(name, scale, *arguments):
    return _attend_forward(name, scale, *arguments)[0]


def _attend_forward(name, scale, *arguments):
    q_prefix, k_prefix, v_prefix, q_suffix = arguments[:4]
    rules = _plan_prefix(name, scale, q_prefix, k_prefix, arguments[6])
    out_prefix, lse_prefix = program.forward(
        name,
        rules,
        *(q_prefix, k_prefix, v_prefix),
        *_of_prefix(arguments[6], k_prefix),
    )
    pieces = []
    for part in _parts(name, scale, *arguments[1:]):
        out, lse = program.forward(name, *part)
        pieces += [out.reshape(q_suffix.shape), lse.reshape(q_suffix.shape[:-1])]
    out_suffix, lse_suffix = flash.merge_partials(*pieces)
    kept = program.named(out_prefix, lse_prefix, out_suffix, lse_suffix)
    return (kept[0], kept[2]), (arguments, kept)


def _attend_backward(name, scale, residuals, gradients):
    arguments, (out_prefix, lse_prefix, out_suffix, lse_suffix) = residuals
    dout_prefix, dout_suffix = gradients
    q_prefix, k_prefix, v_prefix, *suffix, prefix_lengths, _ = arguments
    rules = _plan_prefix(name, scale, q_prefix, k_prefix, prefix_lengths)
    dq, dk, dv = program.backward(
        name,
        rules,
        *(q_prefix, k_prefix, v_prefix),
        *_of_prefix(prefix_lengths, k_prefix),
        *(out_prefix, lse_prefix, dout_prefix, 0.0),
    )
    parts = _parts(name, scale, *arguments[1:])
    of_parts = []
    for part in parts:
        # the merged results stand for both parts, so neither's own need be kept
        rows = [
            x.reshape(*part[1].shape[:2], *x.shape[3:])
            for x in (out_suffix, lse_suffix, dout_suffix)
        ]
        of_parts.append(program.backward(name, *part, *rows, 0.0))
    (dq_a, dk_a, dv_a), (dq_b, dk_b, dv_b) = of_parts
    q_suffix, k_suffix, v_suffix = suffix
    return (
        dq,
        dk + dk_a,
        dv + dv_a,
        dq_a.reshape(q_suffix.shape) + dq_b.reshape(q_suffix.shape),
        dk_b.reshape(k_suffix.shape),
        dv_b.reshape(v_suffix.shape),
        None,
        None,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _check(prefix, suffix, prefix_lengths, suffix_lengths) -> None:
    sizes: dict[str, int] = {}
    letters = ("Hq", "Hkv", "Hkv")
    for name, x, heads in zip("qkv", prefix, letters, strict=True):
        dispatch.require_shape(f"{name}_prefix", x, f"B P {heads} D", sizes)
    for name, x, heads in zip("qkv", suffix, letters, strict=True):
        dispatch.require_shape(f"{name}_suffix", x, f"B G S {heads} D", sizes)
        dispatch.require_dtype(f"{name}_suffix", x, (prefix[0].dtype.name,))
    if prefix_lengths is not None:
        dispatch.require_shape("prefix_lengths", prefix_lengths, "B", sizes)
        dispatch.require_dtype("prefix_lengths", prefix_lengths, ("int32",))
    if suffix_lengths is not None:
        dispatch.require_shape("suffix_lengths", suffix_lengths, "B G", sizes)
        dispatch.require_dtype("suffix_lengths", suffix_lengths, ("int32",))
