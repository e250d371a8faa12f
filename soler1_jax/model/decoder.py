"""The text decoder: normed layers with DeepStack additions and a key-value cache.

Letters: B sequences, T tokens, D channels, Ls DeepStack levels, g key-value heads, C
places of the cache, d channels of a head.
Sources: Qwen3-VL technical report (arXiv 2511.21631), section 2; Gemma 2 (arXiv
2408.00118), section 2 (norms on both sides, sliding windows in some layers).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.model.attention import LayerCache
from soler1_jax.model.attention_layers import TextAttention, lora_of
from soler1_jax.model.config import TextConfig
from soler1_jax.model.layers import GatedMLP, RMSNorm
from soler1_jax.model.rope import mrope_angles, plain_section
from soler1_jax.model.shared_attention import SharedPrompt
from soler1_jax.model.split_cache import SplitCache
from soler1_jax.model.stack import LayerStack


class DecoderLayer(nnx.Module):
    """Attention and gated feed-forward, each added to its input.

    The norms are named as published: `post_attention_layernorm` comes before the
    feed-forward layer, but with `sandwich_norms` at the end of the attention.
    """

    def __init__(
        self, config: TextConfig, attention: str | None = None, *, rngs: nnx.Rngs
    ) -> None:
        self.input_layernorm = _norm(config)
        self.self_attn = TextAttention(config, attention, rngs=rngs)
        self.post_attention_layernorm = _norm(config)
        self.mlp = GatedMLP(
            config.hidden_size,
            config.intermediate_size,
            activation=config.activation,
            lora=lora_of(config),
            rngs=rngs,
        )
        self.sandwich = config.sandwich_norms
        if self.sandwich:
            self.pre_feedforward_layernorm = _norm(config)
            self.post_feedforward_layernorm = _norm(config)

    def __call__(
        self,
        x: jax.Array,
        angles: jax.Array,
        mask: jax.Array | None,
        cache: LayerCache | SplitCache | None,
        index: jax.Array | int,
        segments: jax.Array | None = None,
        shared: SharedPrompt | None = None,
    ) -> tuple[jax.Array, LayerCache | SplitCache]:
        """Maps [B, T, D]; see `TextAttention` for the other arguments."""
        y, cache = self.self_attn(
            self.input_layernorm(x), angles, mask, cache, index, segments, shared
        )
        if not self.sandwich:
            x = x + y
            return x + self.mlp(self.post_attention_layernorm(x)), cache
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(y), cache


class Decoder(nnx.Module):
    """Layers and the last norm."""

    def __init__(
        self, config: TextConfig, attention: str | None = None, *, rngs: nnx.Rngs
    ) -> None:
        self.layers = LayerStack(
            lambda r: DecoderLayer(config, attention, rngs=r),
            config.depth,
            scan=config.scan_layers,
            remat=config.remat,
            rngs=rngs,
        )
        self.norm = _norm(config)
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array | None,
        deepstack: jax.Array | None = None,
        cache: Any = None,
        index: jax.Array | int = 0,
        near: jax.Array | None = None,
        apart: tuple | None = None,
        segments: jax.Array | None = None,
        shared: SharedPrompt | None = None,
    ) -> tuple[jax.Array, Any]:
        """Runs all layers.

        Args:
          x: [B, T, D].
          positions: int32 [B, 3, T].
          mask: bool [B, T, C], or None with `segments`, `shared` or a split cache; C is
            T, or the cache's capacity.
          deepstack: [B, Ls, T', D] with T' <= T; level i is added after layer i to the
            first T' tokens; zero where a token is no picture.
          cache: what an earlier call returned, or `cache.begin` made of it.
          index: where in the cache x goes.
          near: bool [B, T, C], `mask` within the sliding window; needed only by models
            with sliding layers.
          apart: of scanned layers, see `LayerStack.run`.
          segments: int32 [B, T] instead of a mask, see `TextAttention`.
          shared: a row's layout instead of a mask, likewise.

        Returns:
          Normed [B, T, D], and the cache: one `LayerCache` or `SplitCache` a layer (a
          tuple, or stacked when the layers are scanned).
        """
        config = self.config
        section = config.mrope_section or plain_section(config.head_dim)
        angles = mrope_angles(positions, section, config.rope_theta)

        def apply(
            layer: DecoderLayer, x: jax.Array, kept: Any, i: jax.Array | int
        ) -> tuple[jax.Array, LayerCache | SplitCache]:
            seen = self._seen(mask, near, i)
            x, kept = layer(x, angles, seen, kept, index, segments, shared)
            return add_level(x, deepstack, i), kept

        x, cache = self.layers.run(apply, x, cache, apart=apart)
        return self.norm(x), cache

    def _seen(
        self, mask: jax.Array | None, near: jax.Array | None, layer: jax.Array | int
    ) -> jax.Array | None:
        """The mask of a layer."""
        sliding = self.config.sliding_layers
        if near is None or not sliding:
            return mask
        if isinstance(layer, int):
            return near if layer in sliding else mask
        return jnp.where(jnp.isin(layer, jnp.asarray(sliding)), near, mask)


def _norm(config: TextConfig) -> RMSNorm:
    return RMSNorm(config.hidden_size, config.norm_eps, offset=config.norm_offset)


def add_level(
    x: jax.Array, deepstack: jax.Array | None, index: jax.Array | int
) -> jax.Array:
    """Adds DeepStack level `index`, if there is one, to the first tokens of x."""
    if deepstack is None or deepstack.shape[1] == 0:
        return x
    levels, length = deepstack.shape[1:3]
    if isinstance(index, int):
        if index >= levels:
            return x
        level = deepstack[:, index]
    else:
        level = jnp.where(
            index < levels, deepstack[:, jnp.minimum(index, levels - 1)], 0
        )
    return x.at[:, :length].add(level.astype(x.dtype))
