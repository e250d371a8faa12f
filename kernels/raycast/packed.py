"""The XLA implementation: one packed key per ray under a running minimum.

Dimension letters: G geoms, R rays. A key is a uint32: distance in the high bits, then 8
bits of cosine, then the geom's index in the low bits. The nearest hit is the minimum of
the keys, so the loop over geoms carries one integer per ray. Carrying (distance, index,
shade) through `where` instead makes XLA's CPU fusion compute every geom again for every
consumer, some hundred times slower.

The inverse distance enters the key as the float32 bits of 1 / NEAR less its own, which
grows with distance: 16 octaves need 4 bits of exponent, which leaves 14 bits of mantissa
with 32 geoms. Whatever is no hit (negative, NaN, out of range) is large as an unsigned
integer, and clipping makes it the largest key.
"""

from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from soler1_jax.kernels.raycast import primitives, tables
from soler1_jax.kernels.raycast.shapes import FAR, Geoms, Hits, Rays

Array = jax.Array

COSINE_BITS = 8
_NEAREST = 0x43000000  # float32 bits of 1 / NEAR
_RANGE = (1 << 27) - 1  # 16 octaves of 23 mantissa bits
_WHOLE = 0xFFFFFFFF


def _index_bits(geoms: int) -> int:
    return max(1, (geoms - 1).bit_length())


@jax.custom_batching.custom_vmap
def _any(condition: Array) -> Array:
    """Return whether a condition holds anywhere, bool [].

    A batch of worlds gets one answer for all of them: a condition of its own for each
    would turn `cond` into a choice between two results that both are computed.
    """
    return jnp.any(condition)


@_any.def_vmap
def _any_of_batch(size: int, batched: list[bool], condition: Array) -> tuple:
    return _any(condition), False


def _key(w: Array, cosine: Array, index: Array, bits: int) -> Array:
    """Return the keys of one geom, uint32 [R]."""
    high = _WHOLE ^ ((1 << (bits + COSINE_BITS)) - 1)
    depth = jnp.uint32(_NEAREST) - jax.lax.bitcast_convert_type(w, jnp.uint32)
    depth = (jnp.minimum(depth, jnp.uint32(_RANGE)) << 4) & jnp.uint32(high)
    # adding 2**(23 - bits) leaves the whole part of the number at bit `bits`
    shade = primitives.larger(cosine * 254.5 + 0.5, 0.5) + 2.0 ** (23 - bits)
    shade = jax.lax.bitcast_convert_type(shade, jnp.uint32)
    return depth | (shade & jnp.uint32(255 << bits)) | index.astype(jnp.uint32)


def _decode(key: Array, bits: int) -> Hits:
    low = (1 << (bits + COSINE_BITS - 4)) - 1
    depth = (key >> 4) & jnp.uint32(_WHOLE ^ low)
    miss = depth == jnp.uint32(_RANGE ^ low)
    inverse = jnp.uint32(_NEAREST - (low + 1) // 2) - depth
    distance = 1.0 / jax.lax.bitcast_convert_type(inverse, jnp.float32)
    cosine = ((key >> bits) & 255).astype(jnp.int32).astype(jnp.float32) / 254.5
    geom = (key & ((1 << bits) - 1)).astype(jnp.int32)
    return Hits(
        jnp.where(miss, FAR, distance),
        jnp.where(miss, -1, geom),
        jnp.where(miss, 0.0, cosine),
    )


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    to_light: Array,
) -> Hits:
    """Return the nearest hits; see `api.cast`."""
    bits = _index_bits(len(geom_types))
    picture = primitives.picture_of(rays.u, rays.v, rays.basis, to_light)
    best = jnp.full(picture.light.shape, jnp.uint32(_WHOLE))
    for group in tables.enter_groups(geom_types, geoms, rays, to_light):

        def nearer(best: Array, geom: tuple, group: tables.Group = group) -> tuple:
            terms, index = geom
            w, cosine = group.function(terms, picture)
            return jnp.minimum(best, _key(w, cosine, index, bits)), None

        def walk(best: Array, group: tables.Group = group, step: Any = nearer) -> Array:
            return jax.lax.scan(step, best, (group.terms, group.members))[0]

        if group.ball is None:
            best = walk(best)
        else:
            wanted = _any(group.ball_function(group.ball, picture) > 0)
            best = jax.lax.cond(wanted, walk, lambda best: best, best)
    return _decode(best, bits)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
) -> Array:
    """Return whether each hit lies in shadow; see `api.occluded`."""
    x, y, z = rays.u * hits.distance, rays.v * hits.distance, hits.distance
    dark = jnp.zeros(x.shape, bool)
    for group in tables.shade_groups(geom_types, geoms, rays, to_light):

        def darker(dark: Array, geom: tuple, group: tables.Group = group) -> tuple:
            (form, origin, terms), index = geom
            point = tables.local_point(form, origin, x, y, z)
            shaded = group.function(terms, point)
            return dark | (shaded & (hits.geom != index)), None

        def walk(dark: Array, group: tables.Group = group, step: Any = darker) -> Array:
            return jax.lax.scan(step, dark, (group.terms, group.members))[0]

        if group.ball is None:
            dark = walk(dark)
        else:
            form, origin, terms = group.ball
            point = tables.local_point(form, origin, x, y, z)
            wanted = _any(group.ball_function(terms, point) > 0)
            dark = jax.lax.cond(wanted, walk, lambda dark: dark, dark)
    return dark
