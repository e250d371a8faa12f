"""Heads that read progress, success and preference from hidden states.

Letters: H channels of the decoder, K bins of progress.
Source of the structure: Robometer (arXiv 2603.02115) and its code release.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.model.config import HeadsConfig
from soler1_jax.model.layers import LayerNorm, Linear

# What torch's LayerNorm adds to the variance.
_NORM_EPS = 1e-5


class HeadLogits(NamedTuple):
    """What the heads say, float32, before any softmax or sigmoid."""

    progress: jax.Array  # [..., K]
    success: jax.Array  # [...]
    preference: jax.Array | None  # [...]; None for models without such a head


class ReadoutHead(nnx.Module):
    """fc2(gelu(norm(fc1(x)))), half as wide inside, with the exact GELU."""

    def __init__(self, size: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        inner = size // 2
        self.fc1 = Linear((size, inner), ("embed", "mlp"), use_bias=True, rngs=rngs)
        self.norm = LayerNorm(inner, _NORM_EPS)
        self.fc2 = Linear((inner, outputs), ("mlp", None), use_bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., H] to float32 [..., outputs]."""
        hidden = jax.nn.gelu(self.norm(self.fc1(x)), approximate=False)
        return self.fc2(hidden, jnp.float32)


class ReadoutHeads(nnx.Module):
    """All heads of a model; see `HeadsConfig`."""

    def __init__(self, config: HeadsConfig, size: int, *, rngs: nnx.Rngs) -> None:
        self.progress_head = ReadoutHead(size, config.progress_bins, rngs=rngs)
        self.success_head = ReadoutHead(size, 1, rngs=rngs)
        if config.preference:
            self.preference_head = ReadoutHead(size, 1, rngs=rngs)
        if config.similarity:
            self.similarity_head = ReadoutHead(size, 1, rngs=rngs)
        if config.pooling:
            self.frame_pool_attn = Linear(
                (size, 1), ("embed", None), use_bias=False, rngs=rngs
            )
        self.config = config

    def __call__(self, hidden: jax.Array) -> HeadLogits:
        """Reads normed hidden states [..., H]."""
        prefers = self.config.preference
        return HeadLogits(
            progress=self.progress_head(hidden),
            success=self.success_head(hidden)[..., 0],
            preference=self.preference_head(hidden)[..., 0] if prefers else None,
        )


def progress_shares(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Turns progress logits into a distribution over evenly spaced values.

    Args:
      logits: float32 [..., K].

    Returns:
      float32 [..., K] shares that sum to 1, and [K] values from 0 to 1. A model with one
      output states a number by its sigmoid: its shares are those of 0 and 1.
    """
    if logits.shape[-1] == 1:
        done = jax.nn.sigmoid(logits)
        return jnp.concatenate([1 - done, done], axis=-1), jnp.array([0.0, 1.0])
    return jax.nn.softmax(logits, axis=-1), jnp.linspace(0.0, 1.0, logits.shape[-1])
