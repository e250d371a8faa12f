"""Attention layers: full within a frame, grouped-query in the decoder.

Letters: B sequences, T tokens, C keys, N frames, P patches, D channels of a token, d of a
head.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.model.attention import LayerCache, attend, on_cpu
from soler1_jax.model.config import TextConfig
from soler1_jax.model.layers import Linear, Lora, RMSNorm
from soler1_jax.model.rope import rotate
from soler1_jax.model.segment_attention import attend_segments
from soler1_jax.model.shared_attention import SharedPrompt, attend_shared
from soler1_jax.model.split_cache import SplitCache, attend_split


class VisionAttention(nnx.Module):
    """Every patch of a frame sees every patch of the same frame."""

    def __init__(
        self,
        size: int,
        heads: int,
        implementation: str | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.qkv = Linear(
            (size, 3 * size), ("embed", "heads"), use_bias=True, rngs=rngs
        )
        self.proj = Linear((size, size), ("heads", "embed"), use_bias=True, rngs=rngs)
        self.heads, self.implementation = heads, implementation

    def __call__(
        self, x: jax.Array, angles: jax.Array | None, mask: jax.Array | None = None
    ) -> jax.Array:
        """Maps [N, P, size] to [N, P, size].

        Args:
          x: frames.
          angles: rotary, float32 [P, d/2], or [N, P, d/2] for frames of different sizes;
            None to turn nothing.
          mask: bool [N, P], False on padding, or int32 with the number of the picture to
            which a patch belongs and 0 on padding; None for no padding.
        """
        frames, patches, size = x.shape
        qkv = self.qkv(x).reshape(frames, patches, 3, self.heads, size // self.heads)
        query, key = qkv[:, :, 0], qkv[:, :, 1]
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        out = attend_segments(
            query,
            key,
            qkv[:, :, 2],
            None if mask is None else mask.astype(jnp.int32),
            packed=mask is not None and mask.dtype != jnp.bool_,
            implementation=self.implementation,
        )
        return self.proj(out.reshape(frames, patches, size))


def lora_of(config: TextConfig) -> Lora | None:
    """What is added to the kernels of a decoder layer."""
    if not config.lora_rank:
        return None
    return Lora(config.lora_rank, config.lora_alpha / config.lora_rank)


class TextAttention(nnx.Module):
    """Grouped-query attention with rotary positions; queries and keys may be normed."""

    def __init__(
        self, config: TextConfig, implementation: str | None = None, *, rngs: nnx.Rngs
    ) -> None:
        size, dim = config.hidden_size, config.head_dim
        wide, narrow = config.num_heads * dim, config.num_kv_heads * dim

        def linear(sizes: tuple[int, int], axes: tuple[str, str]) -> Linear:
            return Linear(sizes, axes, use_bias=False, lora=lora_of(config), rngs=rngs)

        self.q_proj = linear((size, wide), ("embed", "heads"))
        self.k_proj = linear((size, narrow), ("embed", "kv_heads"))
        self.v_proj = linear((size, narrow), ("embed", "kv_heads"))
        self.o_proj = linear((wide, size), ("heads", "embed"))
        if config.qk_norm:
            offset = config.norm_offset
            self.q_norm = RMSNorm(dim, config.norm_eps, offset=offset)
            self.k_norm = RMSNorm(dim, config.norm_eps, offset=offset)
        self.config, self.implementation = config, implementation

    def __call__(
        self,
        x: jax.Array,
        angles: jax.Array,
        mask: jax.Array | None,
        cache: LayerCache | SplitCache | None = None,
        index: jax.Array | int = 0,
        segments: jax.Array | None = None,
        shared: SharedPrompt | None = None,
    ) -> tuple[jax.Array, LayerCache | SplitCache]:
        """Attends over x itself, or over a cache into which x is written first.

        Args:
          x: [B, T, D].
          angles: float32 [B, T, d/2].
          mask: bool [B, T, C], or None with `segments`, `shared` or a split cache; C is
            T without a cache, else the cache's capacity. It is causal without a cache if
            `prefix_attention` is.
          cache: keys and values so far; of a split one, T is 1.
          index: where in the cache x goes; in a split one, where among what is written,
            of which it sees all that is not later.
          segments: int32 [B, T] instead of a mask, without a cache: tokens see those of
            their own segment that are not later; 0 is padding.
          shared: how a prompt and its completions lie in a row, instead of a mask,
            without a cache; not with soft-capped logits.

        Returns:
          [B, T, D], and the keys and values (of x alone, or the updated cache).
        """
        batch, length, _ = x.shape
        config = self.config
        shape = (batch, length, -1, config.head_dim)
        query, key = self.q_proj(x).reshape(shape), self.k_proj(x).reshape(shape)
        if config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query = rotate(query, angles)
        key, value = rotate(key, angles), self.v_proj(x).reshape(shape)
        rule = {
            "divisor": config.query_pre_attn_scalar,
            "cap": config.attn_logit_softcapping,
        }
        if isinstance(cache, SplitCache):
            cache = cache._replace(own=cache.own.write(key, value, index))
            out = attend_split(
                query, cache, index + 1, implementation=self.implementation, **rule
            )
            return self.o_proj(out.reshape(batch, length, -1)), cache
        laid = LayerCache.lay(key, value)
        if shared is not None:
            out = attend_shared(
                query,
                key,
                value,
                shared,
                implementation=self.implementation,
                **rule,
            )
            return self.o_proj(out.reshape(batch, length, -1)), laid
        if segments is not None:
            out = attend_segments(
                query,
                key,
                value,
                segments,
                causal=True,
                implementation=self.implementation,
                **rule,
            )
            return self.o_proj(out.reshape(batch, length, -1)), laid
        if cache is not None:
            laid = cache.write(key, value, index)
        out = attend(
            query,
            *laid,
            mask,
            causal=cache is None and config.prefix_attention == "causal",
            blocks=on_cpu(self.implementation),
            **rule,
        )
        return self.o_proj(out.reshape(batch, length, -1)), laid
