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

import jax
import jax.numpy as jnp
import numpy as np
from soler1_jax.kernels.raycast import occlusion, primitives
from soler1_jax.kernels.raycast.shapes import FAR, Geoms, Hits, Rays, exists

Array = jax.Array

COSINE_BITS = 8
_NEAREST = 0x43000000  # float32 bits of 1 / NEAR
_RANGE = (1 << 27) - 1  # 16 octaves of 23 mantissa bits
_WHOLE = 0xFFFFFFFF

_ENTER = {
    0: (primitives.plane_terms, primitives.plane),
    2: (primitives.sphere_terms, primitives.sphere),
    3: (primitives.capsule_terms, primitives.capsule),
    4: (primitives.ellipsoid_terms, primitives.ellipsoid),
    5: (primitives.cylinder_terms, primitives.cylinder),
    6: (primitives.box_terms, primitives.box),
}
_SHADE = {
    2: occlusion.sphere,
    3: occlusion.capsule,
    4: occlusion.ellipsoid,
    5: occlusion.cylinder,
    6: occlusion.box,
}


def _index_bits(geoms: int) -> int:
    return max(1, (geoms - 1).bit_length())


def _groups(geom_types: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """Return the geoms of each type, the most numerous type last.

    One loop over the geoms of a type compiles several times faster than unrolled code.
    The last loop must not be the single pass that XLA would unroll: a loop's result is
    the one thing that it does not compute again for each consumer.
    """
    groups = [
        (kind, np.flatnonzero(np.equal(geom_types, kind)).astype(np.int32))
        for kind in sorted(set(geom_types))
    ]
    return sorted(groups, key=lambda group: len(group[1]))


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
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    present = exists(geom_types, geoms)
    frames = primitives.Frame(
        origin=jnp.einsum("gij,gj->gi", axes, rays.origin - geoms.position),
        forms=axes @ rays.basis,
        light=axes @ to_light,
        size=jnp.where(present[:, None], geoms.size, 1.0),
        present=present,
    )
    bits = _index_bits(len(geom_types))
    picture = primitives.picture_of(rays.u, rays.v, rays.basis, to_light)
    best = jnp.full(picture.light.shape, jnp.uint32(_WHOLE))
    for kind, members in _groups(geom_types):
        chosen = jax.tree.map(lambda x, m=members: x[m], frames)
        terms = jax.vmap(_ENTER[kind][0])(chosen)

        def nearer(best: Array, geom: tuple, kind: int = kind) -> tuple:
            terms, index = geom
            w, cosine = _ENTER[kind][1](terms, picture)
            return jnp.minimum(best, _key(w, cosine, index, bits)), None

        best, _ = jax.lax.scan(nearer, best, (terms, members))
    return _decode(best, bits)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
) -> Array:
    """Return whether each hit lies in shadow; see `api.occluded`."""
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    origins = jnp.einsum("gij,gj->gi", axes, rays.origin - geoms.position)
    forms = axes @ rays.basis
    lights = axes @ to_light
    sizes = jnp.where(exists(geom_types, geoms)[:, None], geoms.size, -1.0)
    x, y, z = rays.u * hits.distance, rays.v * hits.distance, hits.distance
    dark = jnp.zeros(x.shape, bool)
    for kind, members in _groups(geom_types):
        if kind not in _SHADE:
            continue

        def darker(dark: Array, geom: tuple, kind: int = kind) -> tuple:
            form, origin, light, size, index = geom
            point = tuple(
                form[i, 0] * x + (form[i, 1] * y + (form[i, 2] * z + origin[i]))
                for i in range(3)
            )
            shaded = _SHADE[kind](occlusion.Caster(light, size), point)
            return dark | (shaded & (hits.geom != index)), None

        group = (*(v[members] for v in (forms, origins, lights, sizes)), members)
        dark, _ = jax.lax.scan(darker, dark, group)
    return dark
