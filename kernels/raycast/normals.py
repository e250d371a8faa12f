"""Surface normals where rays have hit, from what was hit and how far away.

The casts keep no normals: shading needs one cosine a ray. Plain JAX on every platform.
Dimension letters: G geoms, F triangles of a mesh, R rays.
"""

import jax
import jax.numpy as jnp
from soler1_jax.kernels.raycast import reference
from soler1_jax.kernels.raycast.shapes import (
    NEAR,
    Geoms,
    GeomType,
    Hits,
    Rays,
    meshes_by_geom,
)

Array = jax.Array


def normals(geom_types: tuple[int, ...], geoms: Geoms, rays: Rays, hits: Hits) -> Array:
    """Return the outward unit normals, float32 [3, R]; see `api.normals`."""
    geom = jnp.maximum(hits.geom, 0)
    rotation = jnp.moveaxis(geoms.rotation[geom], 0, -1)  # [3, 3, R]
    directions = rays.directions()
    point = rays.origin[:, None] + hits.distance * directions
    local = _turned_back(rotation, point - geoms.position[geom].T)
    ray = _turned_back(rotation, directions)
    size = geoms.size[geom].T
    kinds = jnp.asarray(geom_types)[geom]
    found = jnp.zeros_like(local)
    for kind in set(geom_types) - {GeomType.MESH}:
        found = jnp.where(
            kinds == kind, _FINDERS[GeomType(kind)](local, size, ray), found
        )
    for index, corners in meshes_by_geom(geom_types, geoms).items():
        origin = local - hits.distance * ray
        found = jnp.where(geom == index, _of_mesh(origin, ray, corners), found)
    found = found / jnp.maximum(jnp.linalg.norm(found, axis=0), 1e-12)
    # sums, not a product of matrices, as in `reference`
    outward = jnp.sum(rotation * found[None], axis=1)
    return jnp.where(hits.geom >= 0, outward, 0.0)


def _turned_back(rotation: Array, vectors: Array) -> Array:
    """Return vectors [3, R] of the world in frames whose axes are columns [3, 3, R]."""
    return jnp.sum(rotation * vectors[:, None], axis=0)


def _plane(point: Array, size: Array, ray: Array) -> Array:
    del size, ray
    return jnp.zeros_like(point).at[2].set(1.0)


def _sphere(point: Array, size: Array, ray: Array) -> Array:
    del size, ray
    return point


def _ellipsoid(point: Array, size: Array, ray: Array) -> Array:
    """The gradient of sum (x / radius)^2."""
    del ray
    return point / jnp.maximum(size, 1e-9) ** 2


def _capsule(point: Array, size: Array, ray: Array) -> Array:
    """From the nearest point of the axis."""
    del ray
    return point.at[2].add(-jnp.clip(point[2], -size[1], size[1]))


def _cylinder(point: Array, size: Array, ray: Array) -> Array:
    side = point.at[2].set(0.0)
    cap = jnp.zeros_like(point).at[2].set(jnp.sign(point[2]))
    from_side = jnp.abs(jnp.hypot(point[0], point[1]) - size[0])
    from_cap = jnp.abs(jnp.abs(point[2]) - size[1])
    return _nearer(jnp.stack([from_side, from_cap]), jnp.stack([side, cap]), ray)


def _box(point: Array, size: Array, ray: Array) -> Array:
    faces = jnp.sign(point)[:, None] * jnp.eye(3)[:, :, None]
    return _nearer(jnp.abs(jnp.abs(point) - size), faces, ray)


_FINDERS = {
    GeomType.PLANE: _plane,
    GeomType.SPHERE: _sphere,
    GeomType.CAPSULE: _capsule,
    GeomType.ELLIPSOID: _ellipsoid,
    GeomType.CYLINDER: _cylinder,
    GeomType.BOX: _box,
}


def _nearer(distance: Array, candidates: Array, ray: Array) -> Array:
    """Return the normal, of N, of the nearest face that looks at the ray.

    At an edge two faces are as near as the hit is exact, and a ray enters only through
    one that it meets from outside.

    Args:
      distance: float32 [N, R], of the hit from each face.
      candidates: float32 [N, 3, R], their normals.
      ray: float32 [3, R].
    """
    away = jnp.sum(candidates * ray, axis=1) >= 0
    nearest = jnp.argmin(jnp.where(away, jnp.inf, distance), axis=0)
    return jnp.take_along_axis(candidates, nearest[None, None], axis=0)[0]


def _of_mesh(origin: Array, ray: Array, corners: Array) -> Array:
    """Return the normal of the first triangle [F, 3, 3] that is met, [3, R]."""

    def one(best: tuple[Array, Array], triangle: Array) -> tuple[tuple, None]:
        distance, normal = reference.triangle(origin, ray, triangle)
        nearer = (distance >= NEAR) & (distance < best[0])
        return (
            jnp.where(nearer, distance, best[0]),
            jnp.where(nearer, normal, best[1]),
        ), None

    nothing = jnp.full(ray.shape[1], jnp.inf), jnp.zeros_like(ray)
    return jax.lax.scan(one, nothing, jnp.asarray(corners))[0][1]
