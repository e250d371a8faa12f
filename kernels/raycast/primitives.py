"""Where a ray enters each primitive, and how squarely light falls there.

Dimension letters: R rays. All functions work in the geom's own frame on scalars (one per
world) and [R] arrays, and return `(distance, cosine)`, both [R]. A miss is a distance
that is negative or NaN: the callers' comparison drops both, which spares a select.

Formulas are the textbook quadratics and slabs. Maxima are spelt with `where` because
`jnp.maximum` must propagate NaN, which costs three instructions instead of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

TINY = 1e-12


class Rays(NamedTuple):
    """Rays that leave one point, with the terms that all geoms share.

    Attributes:
      direction: three float32 [R] arrays, world frame.
      squared: float32 [R], squared length of the direction.
      inverse: float32 [R], one over `squared`.
      to_light: float32 [R], direction times the unit vector to the light.
    """

    direction: tuple[Array, Array, Array]
    squared: Array
    inverse: Array
    to_light: Array


class Frame(NamedTuple):
    """One geom as seen from the rays' origin; every entry is a scalar or a short vector.

    Attributes:
      axes: float32 [3, 3], rows are the geom's axes in the world.
      origin: float32 [3], the rays' origin in the geom's frame, metres.
      light: float32 [3], unit vector to the light in the geom's frame.
      size: float32 [3], metres; positive also for a hidden geom.
      hidden: bool [], the geom must not be hit.
    """

    axes: Array
    origin: Array
    light: Array
    size: Array
    hidden: Array


def larger(a: Array, b: Array) -> Array:
    """Return the larger of two arrays; `b` where either is NaN."""
    return jnp.where(a > b, a, b)


def smaller(a: Array, b: Array) -> Array:
    """Return the smaller of two arrays; `b` where either is NaN."""
    return jnp.where(a < b, a, b)


def along(axis: Array, vector: tuple[Array, Array, Array]) -> Array:
    """Return the component of a vector of arrays along a short axis [3]."""
    return axis[0] * vector[0] + axis[1] * vector[1] + axis[2] * vector[2]


def away(value: Array) -> Array:
    """Return a value with its magnitude kept above `TINY`, so that it can divide."""
    return jnp.where(jnp.abs(value) < TINY, TINY, value)


def plane(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays meet the front of a plane (x, y half sizes; 0 is endless)."""
    height = jnp.where(frame.hidden | (frame.origin[2] <= 0), jnp.nan, frame.origin[2])
    distance = -height / along(frame.axes[2], rays.direction)
    half = jnp.where(frame.size > 0, frame.size, jnp.inf)
    x = frame.origin[0] + distance * along(frame.axes[0], rays.direction)
    y = frame.origin[1] + distance * along(frame.axes[1], rays.direction)
    inside = (jnp.abs(x) <= half[0]) & (jnp.abs(y) <= half[1])
    return jnp.where(inside, distance, -1.0), frame.light[2]


def sphere(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays enter a sphere (size[0] is the radius)."""
    radius = frame.size[0]
    offset = frame.origin @ frame.axes
    outside = frame.origin @ frame.origin - radius * radius
    outside = jnp.where(frame.hidden, jnp.inf, outside)
    half = along(offset, rays.direction)
    root = jnp.sqrt(half * half - rays.squared * outside)
    distance = -(half + root) * rays.inverse
    cosine = (frame.origin @ frame.light) / radius + distance * rays.to_light / radius
    return distance, cosine


def ellipsoid(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays enter an ellipsoid (size holds the three radii)."""
    scale = 1.0 / frame.size
    origin = frame.origin * scale
    outside = jnp.where(frame.hidden, jnp.inf, origin @ origin - 1.0)
    axes = frame.axes * scale[:, None]
    x, y, z = (along(axis, rays.direction) for axis in axes)
    squared = x * x + y * y + z * z
    half = origin[0] * x + origin[1] * y + origin[2] * z
    root = jnp.sqrt(half * half - squared * outside)
    distance = -(half + root) / squared
    nx = (origin[0] + distance * x) * scale[0]
    ny = (origin[1] + distance * y) * scale[1]
    nz = (origin[2] + distance * z) * scale[2]
    toward = frame.light[0] * nx + frame.light[1] * ny + frame.light[2] * nz
    return distance, toward * jax.lax.rsqrt(nx * nx + ny * ny + nz * nz)


def cylinder(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays enter a cylinder (size: radius, half length along z)."""
    radius, half_length = frame.size[0], frame.size[1]
    ox, oy, oz = frame.origin[0], frame.origin[1], frame.origin[2]
    x, y, z = (along(axis, rays.direction) for axis in frame.axes)
    outside = jnp.where(frame.hidden, jnp.inf, ox * ox + oy * oy - radius * radius)
    inverse = 1.0 / (x * x + y * y + TINY)
    half = (ox * x + oy * y) * inverse
    root = jnp.sqrt(half * half - outside * inverse)
    side = -half - root
    inverse_z = 1.0 / away(z)
    middle, reach = -oz * inverse_z, half_length * jnp.abs(inverse_z)
    cap = middle - reach
    # `side` must come second: a ray beside the cylinder has NaN there and must miss
    enter = larger(cap, side)
    leave = smaller(root - half, middle + reach)
    lx, ly = frame.light[0] / radius, frame.light[1] / radius
    side_cosine = (ox * lx + oy * ly) + enter * (x * lx + y * ly)
    cap_cosine = jnp.sign(oz) * frame.light[2]
    cosine = jnp.where(cap > side, cap_cosine, side_cosine)
    return jnp.where(enter <= leave, enter, -1.0), cosine


def capsule(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays enter a capsule (size: radius, half length of its axis z).

    A ray enters the endless cylinder around the capsule either beside its straight part,
    which is then the hit, or beyond one end, when only that end's ball can be hit.
    """
    radius, half_length = frame.size[0], frame.size[1]
    ox, oy, oz = frame.origin[0], frame.origin[1], frame.origin[2]
    z = along(frame.axes[2], rays.direction)
    dot = along(frame.origin @ frame.axes, rays.direction) - oz * z
    lateral = rays.squared - z * z + TINY
    outside = jnp.where(frame.hidden, jnp.inf, ox * ox + oy * oy - radius * radius)
    side = -(dot + jnp.sqrt(dot * dot - lateral * outside)) / lateral
    height = oz + side * z
    end = oz - jnp.where(height > 0, half_length, -half_length)
    half = dot + end * z
    root = jnp.sqrt(half * half - rays.squared * (outside + end * end))
    ball = -(half + root) * rays.inverse
    distance = jnp.where(jnp.abs(height) <= half_length, side, ball)
    core = smaller(larger(oz + distance * z, -half_length), half_length)
    toward = frame.origin @ frame.light + distance * rays.to_light
    return distance, (toward - core * frame.light[2]) / radius


def box(frame: Frame, rays: Rays) -> tuple[Array, Array]:
    """Return where rays enter a box (size holds the half extents)."""
    enter, leave = [], []
    for axis in range(3):
        inverse = 1.0 / away(along(frame.axes[axis], rays.direction))
        middle = -frame.origin[axis] * inverse
        reach = frame.size[axis] * jnp.abs(inverse)
        enter.append(middle - reach)
        leave.append(middle + reach)
    first = larger(larger(enter[0], enter[1]), enter[2])
    last = smaller(smaller(leave[0], leave[1]), leave[2])
    # seen from outside, a face that is entered is on the origin's side of the box
    cosines = jnp.sign(frame.origin) * frame.light
    cosine = jnp.where(
        first == enter[0],
        cosines[0],
        jnp.where(first == enter[1], cosines[1], cosines[2]),
    )
    last = jnp.where(frame.hidden, -jnp.inf, last)
    return jnp.where(first <= last, first, -1.0), cosine
