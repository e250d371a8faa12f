"""The plain implementation: every geom as a list of surface pieces, all of them cast.

Dimension letters: G geoms, R rays. Slow, exact to float32, and written with other
formulas than `primitives`: a box is six rectangles, a cylinder a tube and two discs, a
capsule a tube and two balls, a mesh its triangles. A piece is met where the ray crosses it against its outward
normal. Distances are in units of the ray's direction, lengths in metres.
"""

import jax
import jax.numpy as jnp
import numpy as np
from soler1_jax.kernels.raycast.shapes import (
    FAR,
    NEAR,
    Geoms,
    GeomType,
    Hits,
    Rays,
    exists,
    meshes_by_geom,
)

Array = jax.Array
Piece = tuple[Array, Array]  # distance [R], inf for a miss; outward normal [3, R]


def _rectangle(origin: Array, ray: Array, axis: int, at: Array, half: Array) -> Piece:
    """Cast against the rectangle across an axis of the frame, facing away from 0."""
    sign = jnp.where(at < 0, -1.0, 1.0)
    distance = (at - origin[axis]) / ray[axis]
    point = origin + distance * ray
    inside = jnp.abs(point) <= half[:, None]
    met = inside.at[axis].set(True).all(axis=0) & (ray[axis] * sign < 0)
    normal = jnp.zeros_like(ray).at[axis].set(sign)
    return jnp.where(met, distance, jnp.inf), normal


def _disc(origin: Array, ray: Array, at: Array, radius: Array) -> Piece:
    sign = jnp.where(at < 0, -1.0, 1.0)
    distance = (at - origin[2]) / ray[2]
    point = origin + distance * ray
    met = (point[0] ** 2 + point[1] ** 2 <= radius**2) & (ray[2] * sign < 0)
    normal = jnp.zeros_like(ray).at[2].set(sign)
    return jnp.where(met, distance, jnp.inf), normal


def _entry(squared: Array, half: Array, outside: Array) -> Array:
    """Return the smaller root of squared x^2 + 2 half x + outside = 0, or inf."""
    inside = half**2 - squared * outside
    root = jnp.sqrt(jnp.maximum(inside, 0.0))
    return jnp.where((inside > 0) & (squared > 0), (-half - root) / squared, jnp.inf)


def _tube(origin: Array, ray: Array, radius: Array, half_length: Array) -> Piece:
    squared = ray[0] ** 2 + ray[1] ** 2
    half = origin[0] * ray[0] + origin[1] * ray[1]
    distance = _entry(squared, half, origin[0] ** 2 + origin[1] ** 2 - radius**2)
    point = origin + distance * ray
    met = jnp.abs(point[2]) <= half_length
    normal = point.at[2].set(0.0) / radius
    return jnp.where(met, distance, jnp.inf), normal


def _ball(origin: Array, ray: Array, at: Array, radii: Array) -> Piece:
    start = origin.at[2].add(-at) / radii[:, None]
    scaled = ray / radii[:, None]
    distance = _entry(
        jnp.sum(scaled**2, axis=0),
        jnp.sum(scaled * start, axis=0),
        jnp.sum(start**2, axis=0) - 1.0,
    )
    normal = (start + distance * scaled) / radii[:, None]
    normal = normal / jnp.linalg.norm(normal, axis=0)
    return distance, normal


def triangle(origin: Array, ray: Array, corners: Array) -> Piece:
    """Cast against a triangle (Moeller and Trumbore 1997)."""
    first, second = corners[1] - corners[0], corners[2] - corners[0]
    across = jnp.cross(ray, second[:, None], axis=0)

    # sums, not matrix products: XLA's CPU compiler (jaxlib 0.10.2) gave wrong products
    # of these shapes from 16,384 rays on
    def dot(fixed: Array, vectors: Array) -> Array:
        return jnp.sum(fixed[:, None] * vectors, axis=0)

    determinant = dot(first, across)
    start = origin - corners[0][:, None]
    one = jnp.sum(start * across, axis=0) / determinant
    turned = jnp.cross(start, first[:, None], axis=0)
    two = jnp.sum(ray * turned, axis=0) / determinant
    distance = dot(second, turned) / determinant
    normal = jnp.cross(first, second)
    normal = normal / jnp.linalg.norm(normal)
    met = (one >= 0) & (two >= 0) & (one + two <= 1) & (dot(normal, ray) < 0)
    normals = jnp.broadcast_to(normal[:, None], ray.shape)
    return jnp.where(met, distance, jnp.inf), normals


def _pieces(kind: int, size: Array, origin: Array, ray: Array) -> list[Piece]:
    radius, half_length = size[0], size[1]
    if kind == 0:
        half = jnp.where(size > 0, size, jnp.inf)
        distance, normal = _rectangle(origin, ray, 2, jnp.zeros(()), half)
        return [(distance, normal)]
    if kind == 2:
        return [_ball(origin, ray, jnp.zeros(()), jnp.full(3, radius))]
    if kind == 4:
        return [_ball(origin, ray, jnp.zeros(()), size)]
    if kind == 3:
        ends = [
            _ball(origin, ray, s * half_length, jnp.full(3, radius)) for s in (1, -1)
        ]
        return [_tube(origin, ray, radius, half_length), *ends]
    if kind == 5:
        discs = [_disc(origin, ray, s * half_length, radius) for s in (1, -1)]
        return [_tube(origin, ray, radius, half_length), *discs]
    sides = ((axis, sign) for axis in range(3) for sign in (1, -1))
    return [
        _rectangle(origin, ray, axis, sign * size[axis], size) for axis, sign in sides
    ]


def _inside(kind: int, size: Array, origin: Array) -> Array:
    """Return which origins lie inside a primitive, bool [R]."""
    x, y, z = origin
    if kind == 0:
        return jnp.zeros(x.shape, bool)
    if kind in (2, 4):
        radii = size if kind == 4 else jnp.full(3, size[0])
        return jnp.sum((origin / radii[:, None]) ** 2, axis=0) < 1
    if kind == 3:
        end = z - jnp.clip(z, -size[1], size[1])
        return x**2 + y**2 + end**2 < size[0] ** 2
    if kind == 5:
        return (x**2 + y**2 < size[0] ** 2) & (jnp.abs(z) < size[1])
    return jnp.all(jnp.abs(origin) < size[:, None], axis=0)


def _first(distance: Array, normal: Array, nearest: float) -> Piece:
    """Return the first that is met of pieces, distances [N, R] and normals [N, 3, R]."""
    distance = jnp.where(distance >= nearest, distance, jnp.inf)
    first = jnp.argmin(distance, axis=0)
    chosen = jnp.take_along_axis(normal, first[None, None], axis=0)[0]
    return jnp.min(distance, axis=0), chosen


def cast_all(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    origins: Array,
    directions: Array,
    nearest: float = NEAR,
) -> tuple[Array, Array]:
    """Return the entry distance [G, R] (inf: none) and outward normal [G, 3, R].

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the primitives.
      origins: float32 [3, R], metres, world frame.
      directions: float32 [3, R], world frame.
      nearest: entries at a smaller distance do not count.
    """
    present = exists(geom_types, geoms)
    size = jnp.where(present[:, None], geoms.size, 1.0)
    distances = [None] * len(geom_types)
    outward = [None] * len(geom_types)
    meshes = meshes_by_geom(geom_types, geoms)
    for kind in set(geom_types) - {GeomType.MESH}:
        members = np.flatnonzero(np.equal(geom_types, kind))

        def one(
            rotation: Array, position: Array, size: Array, kind: int = kind
        ) -> Piece:
            origin = rotation.T @ (origins - position[:, None])
            pieces = _pieces(kind, size, origin, rotation.T @ directions)
            stacked = (jnp.stack(part) for part in zip(*pieces, strict=True))
            distance, normal = _first(*stacked, nearest)
            distance = jnp.where(_inside(kind, size, origin), jnp.inf, distance)
            return distance, rotation @ normal

        poses = (geoms.rotation[members], geoms.position[members], size[members])
        for index, *found in zip(members, *jax.vmap(one)(*poses), strict=True):
            distances[index], outward[index] = found
    for index, corners in meshes.items():
        rotation, position = geoms.rotation[index], geoms.position[index]
        origin = rotation.T @ (origins - position[:, None])
        ray = rotation.T @ directions
        pieces = jax.vmap(triangle, (None, None, 0))(origin, ray, corners)
        distances[index], normal = _first(*pieces, nearest)
        outward[index] = rotation @ normal
    distance = jnp.where(present[:, None], jnp.stack(distances), jnp.inf)
    return distance, jnp.stack(outward)


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    to_light: Array,
) -> Hits:
    """Return the nearest hits; see `api.cast`."""
    directions = rays.directions()
    origins = jnp.broadcast_to(rays.origin[:, None], directions.shape)
    distance, normal = cast_all(geom_types, geoms, origins, directions)
    first = jnp.argmin(distance, axis=0)
    nearest = jnp.min(distance, axis=0)
    chosen = jnp.take_along_axis(normal, first[None, None], axis=0)[0]
    hit = nearest < FAR
    cosine = jnp.clip(to_light @ jnp.where(hit, chosen, 0.0), 0.0, 1.0)
    geom = jnp.where(hit, first, -1).astype(jnp.int32)
    return Hits(jnp.where(hit, nearest, FAR), geom, cosine)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
) -> Array:
    """Return whether each hit lies in shadow; see `api.occluded`."""
    points = rays.origin[:, None] + hits.distance * rays.directions()
    toward = jnp.broadcast_to(to_light[:, None], points.shape)
    distance, _ = cast_all(geom_types, geoms, points, toward, 0.0)
    solid = jnp.array([kind != 0 for kind in geom_types])[:, None]
    other = hits.geom[None, :] != jnp.arange(len(geom_types))[:, None]
    return jnp.any(jnp.isfinite(distance) & other & solid, axis=0)
