"""Entries and normals of single primitives against convex search in float64.

The oracle knows only "is this point inside": each primitive is a convex function that is
negative inside, so along a ray a ternary search finds the deepest point and a bisection
the entry. It shares no formula with the ray caster.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soler1_jax.kernels.raycast import api
from soler1_jax.kernels.raycast.api import Geoms, GeomType, Rays

SIDE = 16


def depth_inside(kind: int, size: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Convex function of points [3, R] in the geom's frame, negative inside."""
    x, y, z = point
    if kind == GeomType.SPHERE:
        return np.linalg.norm(point, axis=0) / size[0] - 1
    if kind == GeomType.ELLIPSOID:
        return np.linalg.norm(point / size[:, None], axis=0) - 1
    if kind == GeomType.CAPSULE:
        end = z - np.clip(z, -size[1], size[1])
        return np.sqrt(x**2 + y**2 + end**2) / size[0] - 1
    if kind == GeomType.CYLINDER:
        return np.maximum(np.hypot(x, y) / size[0], np.abs(z) / size[1]) - 1
    return np.max(np.abs(point) / size[:, None], axis=0) - 1


def search(kind, size, origin, ray):
    """Return the deepest value along each ray and the distance of the entry."""

    def value(t):
        return depth_inside(kind, size, origin[:, None] + t * ray)

    low, high = np.zeros(ray.shape[1]), np.full(ray.shape[1], 20.0)
    for _ in range(120):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        left = value(a) < value(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    deepest = (low + high) / 2
    outside, inside = np.zeros_like(deepest), deepest
    for _ in range(80):
        middle = (outside + inside) / 2
        hit = value(middle) < 0
        outside = np.where(hit, outside, middle)
        inside = np.where(hit, middle, inside)
    return value(deepest), inside


def slope(kind, size, point):
    """Return the unit gradient and whether it is the same on both sides of the point."""
    step = 1e-6
    shift = np.eye(3)[:, :, None] * step
    up = np.stack([depth_inside(kind, size, point + s) for s in shift])
    down = np.stack([depth_inside(kind, size, point - s) for s in shift])
    here = depth_inside(kind, size, point)
    gradient = (up - down) / (2 * step)
    bend = np.abs(up + down - 2 * here).max(axis=0) / step
    return gradient / np.linalg.norm(gradient, axis=0), bend < 1e-2


@functools.partial(jax.jit, static_argnums=(0, 1))
def cast(kind: int, implementation: str, geoms: Geoms, rays: Rays, light: jax.Array):
    return api.cast((kind,), geoms, rays, light, implementation=implementation)


def rotation(quaternion: np.ndarray) -> np.ndarray:
    w, *v = quaternion / np.linalg.norm(quaternion)
    v = np.array(v)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


unit = st.floats(-1, 1, allow_subnormal=False)
poses = st.tuples(unit, unit, unit, unit).filter(
    lambda q: np.linalg.norm(q) > 0.1  # a quaternion needs a length to be normalised
)
lengths = st.floats(0.01, 0.3)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize(
    "kind", sorted(set(GeomType) - {GeomType.PLANE, GeomType.MESH})
)
@settings(max_examples=25)
@given(
    quaternion=poses,
    size=st.tuples(lengths, lengths, lengths),
    place=st.tuples(unit, unit, unit),
    distance=st.floats(0.7, 3.0),
)
def test_entry_and_normal(kind, implementation, quaternion, size, place, distance):
    size, turned = np.array(size), rotation(np.array(quaternion))
    centre = np.array(place) * 0.1
    grid = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * 0.45
    u, v = np.tile(grid, SIDE), np.repeat(grid, SIDE)
    origin = np.array([0.0, 0.0, distance])
    light = np.array([0.48, 0.6, 0.64])
    basis = np.diag([1.0, 1.0, -1.0])
    as_f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    hits = cast(
        kind,
        implementation,
        Geoms(
            as_f32(centre[None]),
            as_f32(turned[None]),
            as_f32(size[None]),
            jnp.ones((1, 4)),
            jnp.ones(1, bool),
        ),
        Rays(as_f32(origin), as_f32(basis), as_f32(u), as_f32(v)),
        as_f32(light),
    )
    local = turned.T @ (origin - centre)
    ray = turned.T @ (basis @ np.stack([u, v, np.ones_like(u)]))
    deepest, entry = search(int(kind), size, local, ray)
    hit = np.asarray(hits.geom) == 0
    # a ray that grazes may go either way in float32
    clear = np.abs(deepest) > 1e-3
    np.testing.assert_array_equal(hit[clear], (deepest < 0)[clear])
    seen = clear & (deepest < 0)
    np.testing.assert_allclose(
        np.asarray(hits.distance)[seen], entry[seen], rtol=3e-4, atol=0
    )
    normal, smooth = slope(int(kind), size, local[:, None] + entry * ray)
    cosine = np.clip((turned.T @ light) @ normal, 0, 1)
    steep = np.abs(np.sum(normal * ray, axis=0)) > 0.05
    good = seen & smooth & steep & (deepest < -0.05)
    np.testing.assert_allclose(
        np.asarray(hits.cosine)[good], cosine[good], atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_plane_is_seen_from_its_front_within_its_size(implementation):
    def look(height: float, half: float) -> api.Hits:
        geoms = Geoms(
            jnp.zeros((1, 3)),
            jnp.eye(3)[None],
            jnp.array([[half, 0.0, 0.0]]),
            jnp.ones((1, 4)),
            jnp.ones(1, bool),
        )
        basis = jnp.diag(jnp.array([1.0, 1.0, -jnp.sign(height)]))
        u = jnp.array([0.0, 0.5, -0.5, 0.0])
        rays = Rays(jnp.array([0.0, 0.0, height]), basis, u, jnp.zeros(4).at[3].set(2))
        light = jnp.array([0.0, 0.6, 0.8])
        return cast(GeomType.PLANE, implementation, geoms, rays, light)

    whole = look(2.0, 0.0)
    np.testing.assert_array_equal(whole.geom, 0)
    np.testing.assert_allclose(whole.distance, 2.0, rtol=1e-4)
    np.testing.assert_allclose(whole.cosine, 0.8, atol=3e-3)
    # x runs to 1 at u = 0.5; a size of 0 along y leaves that side endless
    np.testing.assert_array_equal(look(2.0, 0.9).geom, [0, -1, -1, 0])
    np.testing.assert_array_equal(look(-2.0, 0.0).geom, -1)
