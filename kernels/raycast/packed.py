"""The XLA implementation: one packed key per ray under a running minimum.

Dimension letters: G geoms, R rays. A key is a uint32: distance in the high bits, then 8
bits of cosine, then the geom's index in the low bits. The nearest hit is the minimum of
the keys, so the loop over geoms carries one integer per ray. Carrying (distance, index,
shade) through `where` instead makes XLA's CPU fusion compute every geom again for every
consumer, some hundred times slower.

Distances enter the key as float32 bits less those of `NEAR`. For positive floats that is
monotone; 16 octaves need 4 bits of exponent, which leaves 14 bits of mantissa with 32
geoms. Negative numbers and NaN are large as unsigned integers: clipping makes them `FAR`.
"""

import jax
import jax.numpy as jnp
from soler1_jax.kernels.raycast import occlusion, primitives
from soler1_jax.kernels.raycast.shapes import FAR, Geoms, Hits, exists

Array = jax.Array

COSINE_BITS = 8
_NEAR_BITS = 0x3C000000  # float32 bits of NEAR
_RANGE = 1 << 27  # 16 octaves of 23 mantissa bits

_ENTER = {
    0: primitives.plane,
    2: primitives.sphere,
    3: primitives.capsule,
    4: primitives.ellipsoid,
    5: primitives.cylinder,
    6: primitives.box,
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


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    origin: Array,
    directions: Array,
    to_light: Array,
) -> Hits:
    """Return the nearest hits; see `api.cast`."""
    x, y, z = directions[0], directions[1], directions[2]
    squared = x * x + y * y + z * z
    rays = primitives.Rays(
        (x, y, z),
        squared,
        1.0 / squared,
        primitives.along(to_light, (x, y, z)),
    )
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    origins = jnp.einsum("gij,gj->gi", axes, origin - geoms.position)
    lights = axes @ to_light
    present = exists(geom_types, geoms)
    sizes = jnp.where(present[:, None], geoms.size, 1.0)
    bits = _index_bits(len(geom_types))
    low = (1 << (bits + COSINE_BITS)) - 1
    best = jnp.full(x.shape, jnp.uint32(0xFFFFFFFF))
    for index, kind in enumerate(geom_types):
        frame = primitives.Frame(
            axes[index], origins[index], lights[index], sizes[index], ~present[index]
        )
        distance, cosine = _ENTER[kind](frame, rays)
        cosine = primitives.smaller(primitives.larger(cosine, 0.0), 1.0)
        shade = (cosine * 255.0 + 0.5).astype(jnp.int32).astype(jnp.uint32)
        depth = jax.lax.bitcast_convert_type(distance, jnp.uint32) - _NEAR_BITS
        depth = (jnp.minimum(depth, jnp.uint32(_RANGE - 1)) << 4) & jnp.uint32(
            0xFFFFFFFF ^ low
        )
        best = jnp.minimum(best, depth | (shade << bits) | jnp.uint32(index))
    return _decode(best, bits)


def _decode(key: Array, bits: int) -> Hits:
    low = (1 << (bits + COSINE_BITS)) - 1
    depth = key >> 4
    miss = depth >= ((_RANGE - 1) & ~(low >> 4))
    half = (low >> 5) + 1
    centre = (depth & jnp.uint32(0xFFFFFFFF ^ (low >> 4))) + jnp.uint32(
        _NEAR_BITS + half
    )
    distance = jax.lax.bitcast_convert_type(centre, jnp.float32)
    cosine = ((key >> bits) & 255).astype(jnp.int32).astype(jnp.float32) / 255.0
    geom = (key & ((1 << bits) - 1)).astype(jnp.int32)
    return Hits(
        jnp.where(miss, FAR, distance),
        jnp.where(miss, -1, geom),
        jnp.where(miss, 0.0, cosine),
    )


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    points: Array,
    owner: Array,
    to_light: Array,
) -> Array:
    """Return whether each point lies in shadow; see `api.occluded`."""
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    centres = jnp.einsum("gij,gj->gi", axes, geoms.position)
    lights = axes @ to_light
    sizes = jnp.where(exists(geom_types, geoms)[:, None], geoms.size, -1.0)
    dark = jnp.zeros(points.shape[1:], bool)
    point = (points[0], points[1], points[2])
    for index, kind in enumerate(geom_types):
        if kind == 0:
            continue
        local = tuple(
            primitives.along(axes[index, axis], point) - centres[index, axis]
            for axis in range(3)
        )
        caster = occlusion.Caster(lights[index], sizes[index])
        dark = dark | (_SHADE[kind](caster, local) & (owner != index))
    return dark
