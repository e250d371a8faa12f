"""The shapes that decoding meets: of released models and of this project's own.

One entry is one layer. Batches are episodes that are asked together, capacities the
prompts of one picture to many with the written answer. What a cache occupies at several
entries is more than one chip has for all layers of a model; there, heads or sequences are
spread over chips, and what a chip sees is an entry with fewer of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class DecodeShape(NamedTuple):
    """Arguments of one call.

    Attributes:
      name: the model.
      batch: sequences.
      capacity: keys of a cache.
      heads: query heads.
      kv_heads: key-value heads.
      head_dim: channels of a head.
      dtype: of queries.
      cache_dtype: of the caches.
      logit_cap: of the logits; None for none.
    """

    name: str
    batch: int
    capacity: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    cache_dtype: str = "bfloat16"
    logit_cap: float | None = None

    @property
    def label(self) -> str:
        """The entry in a few characters."""
        return f"{self.name} {self.batch}x{self.capacity} {self.cache_dtype}"

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values together."""
        each = self.batch * self.capacity * self.kv_heads * self.head_dim
        return 2 * each * jnp.dtype(self.cache_dtype).itemsize

    def arguments(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return q, k_cache, v_cache and lengths as shapes."""
        cache = jax.ShapeDtypeStruct(
            (self.batch, self.capacity, self.kv_heads, self.head_dim),
            jnp.dtype(self.cache_dtype),
        )
        q = (self.batch, self.heads, self.head_dim)
        return (
            jax.ShapeDtypeStruct(q, jnp.dtype(self.dtype)),
            cache,
            cache,
            jax.ShapeDtypeStruct((self.batch,), jnp.int32),
        )


SHAPES = (
    DecodeShape("qwen3-vl-2b", 8, 1024, 16, 8, 128),
    DecodeShape("qwen3-vl-2b", 256, 1024, 16, 8, 128),
    DecodeShape("qwen3-vl-2b", 64, 4096, 16, 8, 128),
    # 4B and 8B have the same heads
    DecodeShape("qwen3-vl-8b", 8, 1024, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 256, 4096, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 64, 8192, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 8, 32768, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 8, 32768, 32, 8, 128, cache_dtype="int8"),
    DecodeShape("qwen3-vl-8b", 256, 4096, 32, 8, 128, cache_dtype="float8_e4m3fn"),
    DecodeShape("qwen3-vl-8b", 8, 1024, 32, 8, 128, "float32", "float32"),
    DecodeShape("paligemma2-3b", 256, 1024, 8, 4, 256, logit_cap=50.0),
    DecodeShape("paligemma2-10b", 64, 1024, 16, 8, 256, logit_cap=50.0),
    DecodeShape("nano", 256, 128, 4, 2, 32),
    DecodeShape("nano", 32, 128, 4, 2, 32, "float32", "float32"),
)
"""What the ahead-of-time tests compile."""
