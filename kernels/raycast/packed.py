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
from soler1_jax.kernels.raycast import occlusion, primitives
from soler1_jax.kernels.raycast.shapes import FAR, Geoms, Hits, Rays, exists

Array = jax.Array

COSINE_BITS = 8
TILES = 4
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


def _key(w: Array, cosine: Array, index: int, bits: int) -> Array:
    """Return the keys of one geom, uint32 [R]."""
    high = _WHOLE ^ ((1 << (bits + COSINE_BITS)) - 1)
    depth = jnp.uint32(_NEAREST) - jax.lax.bitcast_convert_type(w, jnp.uint32)
    depth = (jnp.minimum(depth, jnp.uint32(_RANGE)) << 4) & jnp.uint32(high)
    # adding 2**(23 - bits) leaves the whole part of the number at bit `bits`
    shade = primitives.larger(cosine * 254.5 + 0.5, 0.5) + 2.0 ** (23 - bits)
    shade = jax.lax.bitcast_convert_type(shade, jnp.uint32)
    return depth | (shade & jnp.uint32(255 << bits)) | jnp.uint32(index)


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
    terms = {}
    for kind in set(geom_types):
        members = [index for index, other in enumerate(geom_types) if other == kind]
        chosen = jax.tree.map(lambda x, m=tuple(members): x[jnp.array(m)], frames)
        batch = jax.vmap(_ENTER[kind][0])(chosen)
        for place, index in enumerate(members):
            terms[index] = jax.tree.map(lambda x, p=place: x[p], batch)
    bits = _index_bits(len(geom_types))

    def tile(_: None, coordinates: tuple[Array, Array]) -> tuple[None, Array]:
        picture = primitives.picture_of(*coordinates, rays.basis, to_light)
        best = jnp.full(picture.u.shape, jnp.uint32(_WHOLE))
        for index, kind in enumerate(geom_types):
            w, cosine = _ENTER[kind][1](terms[index], picture)
            best = jnp.minimum(best, _key(w, cosine, index, bits))
        return None, best

    count = rays.u.shape[0]
    tiles = TILES if count % TILES == 0 else 1
    split = (rays.u.reshape(tiles, -1), rays.v.reshape(tiles, -1))
    # a loop is the one thing whose result XLA does not compute again for each consumer
    _, keys = jax.lax.scan(tile, None, split)
    return _decode(keys.reshape(count), bits)


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
    for index, kind in enumerate(geom_types):
        if kind == 0:
            continue
        form, origin = forms[index], origins[index]
        point = tuple(
            form[axis, 0] * x + (form[axis, 1] * y + (form[axis, 2] * z + origin[axis]))
            for axis in range(3)
        )
        caster = occlusion.Caster(lights[index], sizes[index])
        dark = dark | (_SHADE[kind](caster, point) & (hits.geom != index))
    return dark
