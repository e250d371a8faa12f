"""Attention of a sequence over itself, where segments and causality tell who sees whom.

What a mask of T x T would say is told in T numbers, so that kernels skip what nobody sees
and no matrix of scores or permissions need exist.

Letters: B sequences, T tokens, h query heads, g key-value heads, d channels of a head.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from soler1_jax.common.mesh import partition_spec
from soler1_jax.kernels.flash_attention.api import flash_attention
from soler1_jax.kernels.flash_attention.program import suits_hopper
from soler1_jax.model.attention import attend, on_cpu

# With fewer tokens all scores are made at once: one block of a TPU kernel is as large,
# and such sequences come in large batches.
SHORT = 128


def attend_segments(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segments: jax.Array | None,
    *,
    causal: bool = False,
    packed: bool = True,
    divisor: float | None = None,
    cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Softmax attention with grouped heads, differentiable.

    On several devices, rows and heads are spread over the mesh that
    `jax.sharding.use_abstract_mesh` names. XLA cannot split a TPU kernel by itself, so
    where this process has several devices and no mesh is named, None stands for "xla".

    Args:
      query: float32 or bfloat16 [B, T, h, d].
      key, value: [B, T, g, d]; g divides h.
      segments: int32 [B, T]; tokens see those of their own segment, and nothing sees 0,
        which is padding. None for one segment without padding.
      causal: hide later tokens.
      packed: whether there may be several segments; False saves the mask of all pairs
        where a mask is used.
      divisor: scores are divided by its root; None for d.
      cap: of `attention.soft_cap` on the scores.
      implementation: of `flash_attention`; None chooses by the platform for which the
        program is compiled, and makes all scores at once of fewer than `SHORT` tokens.
        Full attention of single segments traced on a CPU, and all traced on a GPU for which there is no
        kernel, stay with `attend`; name an implementation to compile there for a TPU.

    Returns:
      [B, T, h, d] in query's dtype; finite and of no meaning at padding.
    """
    # On one CPU core 24 frames of 576 patches took 158 ms by the kernel and 149 ms by
    # `attend`; causal, 8 x 896 tokens took 134 ms and 153 ms.
    full = not causal and not packed and on_cpu(None)
    gpu = jax.default_backend() == "gpu" and not suits_hopper(query)
    plain = query.shape[1] < SHORT or full or gpu
    if implementation is None and plain:
        mask = _pairs(query, segments, causal, packed)
        key, value = jnp.moveaxis(key, 1, -1), jnp.swapaxes(value, 1, 2)
        return attend(query, key, value, mask, divisor=divisor, cap=cap, causal=causal)

    def run(query, key, value, segments=None):
        return flash_attention(
            query,
            key,
            value,
            causal=causal,
            q_segments=segments,
            kv_segments=segments,
            softmax_scale=None if divisor is None else divisor**-0.5,
            logit_cap=cap,
            implementation=implementation_for_mesh(implementation),
        )

    return over_mesh(run, (query, key, value), () if segments is None else (segments,))


def implementation_for_mesh(implementation: str | None) -> str | None:
    """Returns "xla" for None where there are several devices but no mesh to split a kernel by."""
    lost = jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1
    return "xla" if implementation is None and lost else implementation


def over_mesh(
    run: Callable[..., jax.Array],
    heads: tuple[jax.Array, ...],
    rows: tuple[jax.Array, ...] = (),
) -> jax.Array:
    """Runs a kernel on each device's rows and heads.

    Args:
      run: of the arrays that follow; returns what has the first one's shape.
      heads: queries [B, T, h, d], then keys and values, of any length and g heads.
      rows: arrays that lead with B and are not split otherwise.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        # One device, or already within a `shard_map`.
        return run(*heads, *rows)
    # Heads are split only if those of keys can be, which then are groups' own.
    spec = partition_spec(("batch", None, "kv_heads", None), heads[1].shape, mesh)
    by_row = PartitionSpec(spec[0])
    split = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(*[spec] * len(heads), *[by_row] * len(rows)),
        out_specs=spec,
        check_vma=False,
    )
    return split(*heads, *rows)


def _pairs(query, segments, causal, packed):
    """Who sees whom: bool [B, T, T] or [B, 1, T], or None for everyone everyone."""
    batch, length = query.shape[:2]
    mask = None
    if segments is not None:
        mask = (segments > 0)[:, None]
        if packed:
            mask = mask & (segments[:, :, None] == segments[:, None])
    if causal:
        lower = jnp.tril(jnp.ones((length, length), bool))
        lower = jnp.broadcast_to(lower, (batch, length, length))
        mask = lower if mask is None else mask & lower
    return mask
