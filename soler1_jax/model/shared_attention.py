"""Attention of several completions to one prompt that is there once.

Letters: B prompts, P places of a prompt, G completions of each, S places of a completion,
T = P + G * S places of a row, h query heads, g key-value heads, d channels of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from soler1_jax.common.mesh import partition_spec
from soler1_jax.kernels.shared_prefix_attention.api import shared_prefix_attention


class SharedPrompt(NamedTuple):
    """How a row is laid out: the prompt, then its completions one after another."""

    places: int  # P
    group: int  # G
    prompt_lengths: jax.Array  # int32 [B], from there on a prompt is padding
    lengths: jax.Array  # int32 [B, G], likewise of completions


def attend_shared(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    layout: SharedPrompt,
    *,
    divisor: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Causal attention; a completion sees its prompt and itself, not the others.

    On several devices, rows and heads are spread as by `attend_segments`.

    Args:
      query: float32 or bfloat16 [B, T, h, d].
      key, value: [B, T, g, d]; g divides h.
      layout: of the rows.
      divisor: scores are divided by its root; None for d.
      implementation: of `shared_prefix_attention`.

    Returns:
      [B, T, h, d] in query's dtype, 0 at padding.
    """

    def run(query, key, value, prompt_lengths, lengths):
        rows = [_cut(x, layout) for x in (query, key, value)]
        prompt, completions = shared_prefix_attention(
            *(part for part, _ in rows),
            *(part for _, part in rows),
            prefix_lengths=prompt_lengths,
            suffix_lengths=lengths,
            softmax_scale=None if divisor is None else divisor**-0.5,
            implementation=implementation,
        )
        flat = completions.reshape(len(completions), -1, *completions.shape[3:])
        return jnp.concatenate([prompt, flat], axis=1)

    mesh = jax.sharding.get_abstract_mesh()
    if implementation is None and mesh.empty and jax.device_count() > 1:
        # XLA cannot split a kernel by itself.
        implementation = "xla"
    arrays = (query, key, value, layout.prompt_lengths, layout.lengths)
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return run(*arrays)
    spec = partition_spec(("batch", None, "kv_heads", None), key.shape, mesh)
    rows = PartitionSpec(spec[0])
    return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(spec, spec, spec, rows, rows),
        out_specs=spec,
        check_vma=False,
    )(*arrays)


def _cut(x: jax.Array, layout: SharedPrompt) -> tuple[jax.Array, jax.Array]:
    """[B, T, ...] -> the prompt [B, P, ...] and completions [B, G, S, ...]."""
    prompt, rest = x[:, : layout.places], x[:, layout.places :]
    return prompt, rest.reshape(len(x), layout.group, -1, *x.shape[2:])
