"""The data of the ray caster: geoms of one world, and what rays meet.

Dimension letters: G geoms, F triangles of a mesh, R rays. Lengths are metres, vectors are in the world frame.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class GeomType(enum.IntEnum):
    """The geoms that can be cast, numbered as MuJoCo's mjtGeom."""

    PLANE = 0
    SPHERE = 2
    CAPSULE = 3
    ELLIPSOID = 4
    CYLINDER = 5
    BOX = 6
    MESH = 7


SIZES = {
    GeomType.PLANE: 0,
    GeomType.SPHERE: 1,
    GeomType.CAPSULE: 2,
    GeomType.ELLIPSOID: 3,
    GeomType.CYLINDER: 2,
    GeomType.BOX: 3,
    GeomType.MESH: 0,
}
"""How many entries of `Geoms.size` must be positive for a geom of a type to exist."""


class Geoms(NamedTuple):
    """Geoms of one world. Their types travel beside them as static ints.

    Attributes:
      position: float32 [G, 3], metres.
      rotation: float32 [G, 3, 3], columns are the geom's axes in the world.
      size: float32 [G, 3], metres, with MuJoCo's meaning (radius; half extents).
      rgba: float32 [G, 4] in [0, 1]; not used by the casts.
      visible: bool [G]; a geom that is not visible is hit by nothing and shades nothing.
      meshes: for each geom of type MESH, in order, its triangles' corners in the geom's
        frame, float32 [F, 3, 3], metres, counterclockwise as seen from outside.
    """

    position: Array
    rotation: Array
    size: Array
    rgba: Array
    visible: Array
    meshes: tuple[Array, ...] = ()


class Rays(NamedTuple):
    """Rays from one point through a picture plane: direction = basis @ (u, v, 1).

    Attributes:
      origin: float32 [3], metres.
      basis: float32 [3, 3].
      u: float32 [R], first picture coordinate.
      v: float32 [R], second picture coordinate.
    """

    origin: Array
    basis: Array
    u: Array
    v: Array

    def directions(self) -> Array:
        """Return the directions, float32 [3, R]."""
        third = jnp.ones_like(self.u)
        return self.basis @ jnp.stack([self.u, self.v, third])


class Hits(NamedTuple):
    """What each ray meets first.

    Attributes:
      distance: float32 [R], in units of the ray's direction; `FAR` where nothing is hit.
      geom: int32 [R], index of the geom or -1.
      cosine: float32 [R] in [0, 1], surface normal times the direction to the light.
    """

    distance: Array
    geom: Array
    cosine: Array


NEAR = 2.0**-7
"""Hits nearer than this are clipped, as by a camera's near plane."""

FAR = 2.0**9
"""The distance of a ray that meets nothing, and the limit of what can be met."""


def exists(geom_types: tuple[int, ...], geoms: Geoms) -> Array:
    """Return which geoms are visible and have a size, bool [G]."""
    needed = jnp.array([SIZES[GeomType(kind)] for kind in geom_types])
    sized = (geoms.size > 0) | (jnp.arange(3) >= needed[:, None])
    return geoms.visible & jnp.all(sized, axis=-1)


def meshes_by_geom(geom_types: tuple[int, ...], geoms: Geoms) -> dict[int, Array]:
    """Return the triangles of each mesh by its geom's index."""
    members = [i for i, kind in enumerate(geom_types) if kind == GeomType.MESH]
    return dict(zip(members, geoms.meshes, strict=True))
