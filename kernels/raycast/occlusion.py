"""Whether a primitive stands between points and a light infinitely far away.

Dimension letters: R points. The light's direction is the same for every point, so a test
is "does the point lie inside the primitive's outline as seen along the light, and is the
primitive on the lit side": no search for the nearest hit, no division and at most one
root per point. Points are outside or on the primitive, which makes "on the lit side"
equal to "the part of the line inside the primitive has a positive parameter".

As in `primitives`, each kind comes as two functions: `<name>_terms` reduces a geom to the
numbers that do not depend on the point, `<name>` takes these and the points in the geom's
frame, three float32 [R] arrays in metres, and returns bool [R].
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


class SphereTerms(NamedTuple):
    """See `sphere`."""

    light: Array
    squared_radius: Array


def sphere_terms(caster: Caster) -> SphereTerms:
    """Return a sphere's terms; a hidden one's squared radius is negative."""
    return SphereTerms(caster.light, _signed_square(caster.size[0]))


def sphere(terms: SphereTerms, point: Point) -> Array:
    """Return whether a sphere shades the points."""
    x, y, z = point
    toward = _dot(terms.light, point)
    outside = x * x + y * y + z * z - toward * toward
    return (outside < terms.squared_radius) & (toward < 0)


class EllipsoidTerms(NamedTuple):
    """See `ellipsoid`."""

    scale: Array
    light: Array
    squared: Array
    limit: Array


def ellipsoid_terms(caster: Caster) -> EllipsoidTerms:
    """Return an ellipsoid's terms."""
    scale = 1.0 / jnp.where(caster.size > 0, caster.size, jnp.inf)
    light = caster.light * scale
    limit = jnp.where(caster.size[0] > 0, 0.0, -jnp.inf)
    return EllipsoidTerms(scale, light, light @ light, limit)


def ellipsoid(terms: EllipsoidTerms, point: Point) -> Array:
    """Return whether an ellipsoid shades the points."""
    x, y, z = (component * terms.scale[axis] for axis, component in enumerate(point))
    toward = _dot(terms.light, (x, y, z))
    outside = (x * x + y * y + z * z - 1.0) * terms.squared - toward * toward
    return (outside < terms.limit) & (toward < 0)


class CapsuleTerms(NamedTuple):
    """See `capsule`."""

    light: Array
    inverse_lateral: Array
    half_length: Array
    squared_radius: Array


def capsule_terms(caster: Caster) -> CapsuleTerms:
    """Return a capsule's terms."""
    light = caster.light
    lateral = 1.0 - light[2] * light[2] + 1e-9
    radius = _signed_square(caster.size[0])
    return CapsuleTerms(light, 1.0 / lateral, caster.size[1], radius)


def capsule(terms: CapsuleTerms, point: Point) -> Array:
    """Return whether a capsule shades the points.

    Seen along the light, the capsule is a thick line segment.
    """
    x, y, z = point
    toward = _dot(terms.light, point)
    # the axis' point nearest to the line through the point and the light
    core = (z - toward * terms.light[2]) * terms.inverse_lateral
    half = terms.half_length
    core = smaller(larger(core, -half), half)
    rest = z - core
    ahead = toward - core * terms.light[2]
    outside = x * x + y * y + rest * rest - ahead * ahead
    return (outside < terms.squared_radius) & (ahead < 0)


class CylinderTerms(NamedTuple):
    """See `cylinder`."""

    light: Array
    lateral: Array
    squared_radius: Array
    inverse: Array
    reach: Array
    limit: Array


def cylinder_terms(caster: Caster) -> CylinderTerms:
    """Return a cylinder's terms."""
    light, radius = caster.light, caster.size[0]
    inverse = 1.0 / _away(light[2])
    return CylinderTerms(
        light[:2],
        1.0 / (light[0] * light[0] + light[1] * light[1] + 1e-9),
        radius * radius,
        inverse,
        caster.size[1] * jnp.abs(inverse),
        jnp.where(radius > 0, 0.0, jnp.inf),
    )


def cylinder(terms: CylinderTerms, point: Point) -> Array:
    """Return whether a cylinder shades the points."""
    x, y, z = point
    middle = -(x * terms.light[0] + y * terms.light[1]) * terms.lateral
    outside = (x * x + y * y - terms.squared_radius) * terms.lateral - middle * middle
    # NaN beside the cylinder, which makes the comparison false
    reach = jnp.sqrt(-outside)
    middle_z = -z * terms.inverse
    enter = larger(middle_z - terms.reach, middle - reach)
    leave = smaller(middle_z + terms.reach, middle + reach)
    return (enter < leave) & (leave > terms.limit)


class BoxTerms(NamedTuple):
    """See `box`."""

    inverse: Array
    reach: Array


def box_terms(caster: Caster) -> BoxTerms:
    """Return a box's terms."""
    inverse = 1.0 / _away(caster.light)
    return BoxTerms(inverse, caster.size * jnp.abs(inverse))


def box(terms: BoxTerms, point: Point) -> Array:
    """Return whether a box shades the points."""
    reach = terms.reach
    middle = [-point[axis] * terms.inverse[axis] for axis in range(3)]
    enter = larger(
        larger(middle[0] - reach[0], middle[1] - reach[1]), middle[2] - reach[2]
    )
    leave = smaller(
        smaller(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2]
    )
    return (enter < leave) & (leave > 0)
