"""What is carried from token to token while text is written.

Letters: B prefixes, G continuations of each, P places of a prefix, S tokens that may be
written, C = P + S places of a cache that is not split.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.model.attention import LayerCache
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.prefix import Prefix, near_mask
from soler1_jax.model.split_cache import split, splits


class Cache(NamedTuple):
    """What generation carries from token to token."""

    layers: Any  # one LayerCache a layer, or one SplitCache
    # Places that may be looked at; None if the cache is split, which tells by itself.
    valid: jax.Array | None  # bool [B * G, C]
    index: jax.Array  # int32 [], place of the next token, the same for all sequences
    position: jax.Array  # int32 [B * G], rotary position of the next token
    # Of every place; None unless there are sliding layers.
    positions: jax.Array | None = None  # int32 [B * G, C]
    # Weights of scanned layers one by one, a second copy; None on TPUs, whose programs
    # slice the stacked ones within the products. CPUs and GPUs would copy them out at
    # every token: an H100 spent 43 % of its time so (Qwen3-VL-2B, 8 sequences).
    apart: Any = None


def begin(
    config: ModelConfig,
    layers: Any,
    prefix: Prefix,
    capacity: int,
    group: int,
    apart: Any = None,
) -> Cache:
    """Makes room for what continues a prefix.

    Args:
      config: of the model.
      layers: keys and values of the prefix, one `LayerCache` a layer, in a tuple or
        stacked.
      prefix: whose they are.
      capacity: S.
      group: G; continuations of a prefix lie together.
      apart: weights, see `Cache`.
    """
    if isinstance(layers, LayerCache):
        # Apart, each is updated in place: a scan would copy all of a stacked cache for
        # every token.
        layers = tuple(LayerCache(*layer) for layer in zip(*layers, strict=True))
    repeat = functools.partial(jax.tree.map, lambda a: jnp.repeat(a, group, axis=0))
    position = repeat(prefix.next_position)
    if splits(config, group):
        layers = split(config, layers, prefix.mask, capacity, group)
        return Cache(layers, None, jnp.int32(0), position, None, apart)
    places, spare = prefix.mask.shape[1], ((0, 0), (0, capacity))
    grown = tuple(_grow(layer, places + capacity) for layer in layers)
    layers, valid = repeat((grown, jnp.pad(prefix.mask, spare)))
    positions = None
    if config.text.sliding_layers:
        positions = repeat(jnp.pad(prefix.positions[:, 0], spare))
    return Cache(layers, valid, jnp.int32(places), position, positions, apart)


def mark(
    cache: Cache, window: int | None
) -> tuple[Cache, jax.Array | None, jax.Array | None]:
    """Marks the place of the next token as one that may be looked at.

    Args:
      cache: with room for it.
      window: of sliding layers.

    Returns:
      The cache; whom the token sees, bool [B * G, 1, C], and whom within the window.
      Both are None if the cache is split, the latter also without sliding layers.
    """
    if cache.valid is None:
        return cache, None, None
    valid = cache.valid.at[:, cache.index].set(True)
    mask, cache = valid[:, None], cache._replace(valid=valid)
    if cache.positions is None:
        return cache, mask, None
    positions = cache.positions.at[:, cache.index].set(cache.position)
    near = near_mask(mask, cache.position[:, None], positions, window)
    return cache._replace(positions=positions), mask, near


def _grow(cache: LayerCache, capacity: int) -> LayerCache:
    """Pads its places to a capacity."""

    def pad(a: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, capacity - a.shape[axis])
        return jnp.pad(a, widths)

    return LayerCache(pad(cache.keys, -1), pad(cache.values, -2))
