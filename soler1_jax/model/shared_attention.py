"""Attention of several completions to one prompt that is there once.

Letters: B prompts, P places of a prompt, G completions of each, S places of a completion,
T = P + G * S places of a row, h query heads, g key-value heads, d channels of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError
from soler1_jax.kernels.shared_prefix_attention.api import shared_prefix_attention
from soler1_jax.model.segment_attention import implementation_for_mesh, over_mesh


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
    cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Causal attention; a completion sees its prompt and itself, not the others.

    On several devices, rows and heads are spread as by `attend_segments`.

    Args:
      query: float32 or bfloat16 [B, T, h, d].
      key, value: [B, T, g, d]; g divides h.
      layout: of the rows.
      divisor: scores are divided by its root; None for d.
      cap: None; the kernel has no soft cap.
      implementation: of `shared_prefix_attention`.

    Returns:
      [B, T, h, d] in query's dtype, 0 at padding.

    Raises:
      UserError: scores would be capped.
    """
    if cap is not None:
        raise UserError(
            "completions share a prompt where logits are not capped; got a cap of "
            f"{cap}; give each completion its own copy of the prompt"
        )

    def run(query, key, value, prompt_lengths, lengths):
        rows = [_cut(x, layout) for x in (query, key, value)]
        prompt, completions = shared_prefix_attention(
            *(part for part, _ in rows),
            *(part for _, part in rows),
            prefix_lengths=prompt_lengths,
            suffix_lengths=lengths,
            softmax_scale=None if divisor is None else divisor**-0.5,
            implementation=implementation_for_mesh(implementation),
        )
        flat = completions.reshape(len(completions), -1, *completions.shape[3:])
        return jnp.concatenate([prompt, flat], axis=1)

    return over_mesh(run, (query, key, value), (layout.prompt_lengths, layout.lengths))


def _cut(x: jax.Array, layout: SharedPrompt) -> tuple[jax.Array, jax.Array]:
    """[B, T, ...] -> the prompt [B, P, ...] and completions [B, G, S, ...]."""
    prompt, rest = x[:, : layout.places], x[:, layout.places :]
    return prompt, rest.reshape(len(x), layout.group, -1, *x.shape[2:])
