"""Whether a primitive stands between points and a light infinitely far away.

Dimension letters: R points. The light's direction is the same for every point, so a test
is "does the point lie inside the primitive's outline as seen along the light, and is the
primitive on the lit side": no search for the nearest hit, no division and at most one
root per point. Points are outside or on the primitive, which makes "on the lit side"
equal to "the part of the line inside the primitive has a positive parameter".

All functions work on the point in the geom's frame, three float32 [R] arrays in metres,
and return bool [R].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from soler1_jax.kernels.raycast.primitives import larger, smaller

Array = jax.Array
Point = tuple[Array, Array, Array]


class Caster(NamedTuple):
    """One geom as a caster of shadow.

    Attributes:
      light: float32 [3], unit vector to the light in the geom's frame.
      size: float32 [3], metres; -1 for a hidden geom.
    """

    light: Array
    size: Array


def _dot(light: Array, point: Point) -> Array:
    return light[0] * point[0] + light[1] * point[1] + light[2] * point[2]


def _away(value: Array) -> Array:
    """Return a value with its magnitude kept up, so that it can divide."""
    return jnp.where(jnp.abs(value) < 1e-9, 1e-9, value)


def _signed_square(value: Array) -> Array:
    return value * jnp.abs(value)


def sphere(caster: Caster, point: Point) -> Array:
    """Return whether a sphere shades the points."""
    x, y, z = point
    toward = _dot(caster.light, point)
    outside = x * x + y * y + z * z - toward * toward
    return (outside < _signed_square(caster.size[0])) & (toward < 0)


def ellipsoid(caster: Caster, point: Point) -> Array:
    """Return whether an ellipsoid shades the points."""
    scale = 1.0 / jnp.where(caster.size > 0, caster.size, jnp.inf)
    x, y, z = (
        component * factor for component, factor in zip(point, scale, strict=False)
    )
    light = caster.light * scale
    squared = light @ light
    toward = _dot(light, (x, y, z))
    outside = (x * x + y * y + z * z - 1.0) * squared - toward * toward
    return (outside < 0) & (toward < 0) & (caster.size[0] > 0)


def capsule(caster: Caster, point: Point) -> Array:
    """Return whether a capsule shades the points.

    Seen along the light, the capsule is a thick line segment.
    """
    x, y, z = point
    light = caster.light
    toward = _dot(light, point)
    lateral = 1.0 - light[2] * light[2] + 1e-9
    # the axis' point nearest to the line through the point and the light
    core = (z - toward * light[2]) / lateral
    half = caster.size[1]
    core = smaller(larger(core, -half), half)
    rest = z - core
    ahead = toward - core * light[2]
    outside = x * x + y * y + rest * rest - ahead * ahead
    return (outside < _signed_square(caster.size[0])) & (ahead < 0)


def cylinder(caster: Caster, point: Point) -> Array:
    """Return whether a cylinder shades the points."""
    x, y, z = point
    light = caster.light
    radius, half_length = caster.size[0], caster.size[1]
    lateral = 1.0 / (light[0] * light[0] + light[1] * light[1] + 1e-9)
    middle = -(x * light[0] + y * light[1]) * lateral
    outside = (x * x + y * y - radius * radius) * lateral - middle * middle
    # NaN beside the cylinder, which makes the comparison false
    reach = jnp.sqrt(-outside)
    inverse = 1.0 / _away(light[2])
    middle_z, reach_z = -z * inverse, half_length * jnp.abs(inverse)
    enter = larger(middle_z - reach_z, middle - reach)
    leave = smaller(middle_z + reach_z, middle + reach)
    return (enter < leave) & (leave > 0) & (radius > 0)


def box(caster: Caster, point: Point) -> Array:
    """Return whether a box shades the points."""
    inverse = 1.0 / _away(caster.light)
    reach = caster.size * jnp.abs(inverse)
    middle = [-point[axis] * inverse[axis] for axis in range(3)]
    enter = larger(
        larger(middle[0] - reach[0], middle[1] - reach[1]), middle[2] - reach[2]
    )
    leave = smaller(
        smaller(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2]
    )
    return (enter < leave) & (leave > 0)
