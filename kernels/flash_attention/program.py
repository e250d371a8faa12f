"""One program for a call: its rules, its forward and its backward pass.

What `api.flash_attention` is made of, for kernels that put several calls together. No
argument is checked here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import (
    block_sizes,
    gpu,
    gpu_backward,
    gpu_parts,
    tpu,
    tpu_backward,
    xla,
)
from soler1_jax.kernels.flash_attention.rules import Rules

Array = jax.Array

RESULTS = "attention"
"""Name that `named` gives to what queries got."""

BY_PLATFORM = "by platform"
"""Name of a program that is chosen when it is compiled, not when it is traced."""

HOPPER_MAX_SIZE = gpu_parts.MAX_SIZE

_NOTHING = 1e30
"""Stands for the log-normaliser of a row without keys, so that exp(logit - it) is 0."""


class Plans(NamedTuple):
    """Rules of `BY_PLATFORM`, which differ in their blocks."""

    tpu: Rules
    cpu: Rules
    hopper: Rules | None
    other: Rules


def plan(
    name: str,
    q: Array,
    k: Array,
    *,
    causal: bool,
    segments: bool,
    softmax_scale: float | None,
    logit_cap: float | None = None,
    blocks: tuple[int, int] | None = None,
) -> Rules | Plans:
    """Return the rules of a call of the implementation `name`, or those of each platform.

    Args:
      name: of the implementation, or `BY_PLATFORM`.
      q: [B, Tq, Hq, D].
      k: [B, Tk, Hkv, D].
      causal, softmax_scale, logit_cap, blocks: as for `api.flash_attention`.
      segments: whether there are any.

    Raises:
      ValueError: `blocks` does not suit the implementation.
    """
    blocks_of = functools.partial(block_sizes.choose, causal=causal, segments=segments)
    if name == BY_PLATFORM:
        of_platform = functools.partial(
            plan,
            q=q,
            k=k,
            causal=causal,
            segments=segments,
            softmax_scale=softmax_scale,
            logit_cap=logit_cap,
        )
        on_xla = functools.partial(blocks_of, "xla", q, k, None)
        return Plans(
            of_platform("pallas_tpu"),
            of_platform("xla", blocks=on_xla("cpu")),
            of_platform("pallas_gpu") if suits_hopper(q) else None,
            of_platform("xla", blocks=on_xla("other")),
        )
    block_q, block_k = blocks_of(name, q, k, blocks)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else float(softmax_scale)
    return Rules(
        queries=q.shape[1],
        keys=k.shape[1],
        causal=bool(causal),
        softmax_scale=scale,
        logit_cap=None if logit_cap is None else float(logit_cap),
        block_q=block_q,
        block_k=block_k,
    )


def suits_hopper(q: Array) -> bool:
    """Return whether this process has a Hopper GPU, and its program takes q."""
    return (
        dispatch.on_hopper()
        and q.dtype == jnp.bfloat16
        and q.ndim == 4
        and q.shape[-1] <= gpu_parts.MAX_SIZE
    )


def forward(
    name: str,
    rules: Rules | Plans,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
) -> tuple[Array, Array]:
    """Return attention [B, Tq, Hq, D] and the log-normaliser float32 [B, Tq, Hq]."""
    if name == BY_PLATFORM:
        return _by_platform(forward, rules, q, k, v, q_segments, kv_segments)
    if name == "xla":
        return xla.forward(rules, q, k, v, q_segments, kv_segments)
    if name == "pallas_gpu":
        return gpu.forward(rules, q, k, v, q_segments, kv_segments)
    return tpu.forward(name, rules, q, k, v, q_segments, kv_segments)


def backward(
    name: str,
    rules: Rules | Plans,
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array | None,
    kv_segments: Array | None,
    out: Array,
    lse: Array,
    dout: Array,
    dlse: Array | float,
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v.

    Where `k` and `v` are some of the keys that `out` and `lse` are over, the gradients are
    those of this part: the probabilities exp(logit - lse) are then the whole's.

    Args:
      name, rules, q, k, v, q_segments, kv_segments: as for `forward`.
      out, lse: what the queries got.
      dout, dlse: the gradients of both.
    """
    if name == BY_PLATFORM:
        arguments = (q, k, v, q_segments, kv_segments, out, lse, dout, dlse)
        return _by_platform(backward, rules, *arguments)
    empty = lse == -jnp.inf
    # d lse / d logits are the probabilities, so its gradient joins the row's sum
    delta = _row_sums(dout.astype(jnp.float32), out.astype(jnp.float32)) - dlse
    delta = jnp.where(empty, 0, delta)
    lse = jnp.where(empty, _NOTHING, lse)
    arguments = (q, k, v, q_segments, kv_segments, lse, dout, delta)
    if name == "pallas_gpu" and q.shape[-1] <= gpu_backward.MAX_SIZE:
        return gpu_backward.backward(rules, *arguments)
    if name == "pallas_gpu":
        block_q, block_k = block_sizes.choose("xla", q, k, None)
        rules = dataclasses.replace(rules, block_q=block_q, block_k=block_k)
    if name in ("xla", "pallas_gpu"):
        return xla.backward(rules, *arguments)
    return tpu_backward.backward(name, rules, *arguments)


def named(*results: Array) -> tuple[Array, ...]:
    """Name results for policies of `jax.checkpoint`: kept, nothing is attended twice."""
    return tuple(checkpoint_name(x, RESULTS) for x in results)


def _row_sums(a: Array, b: Array) -> Array:
    """Sum a * b over the last axis; as a sum of products a CPU takes 8 times as long."""
    return jnp.einsum("bthd,bthd->bth", a, b, precision=jax.lax.Precision.HIGHEST)


def _by_platform(run: Callable, plans: Plans, *arrays: Array | None) -> tuple:
    """Run what suits the platform of the compiled program; the rest is not lowered."""
    branches = {
        "tpu": functools.partial(run, "pallas_tpu", plans.tpu),
        "cpu": functools.partial(run, "xla", plans.cpu),
        "default": functools.partial(run, "xla", plans.other),
    }
    if plans.hopper is not None:
        branches["cuda"] = functools.partial(run, "pallas_gpu", plans.hopper)
    return jax.lax.platform_dependent(*arrays, **branches)
