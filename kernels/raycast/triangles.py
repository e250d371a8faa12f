"""Triangles of meshes, in the form of `primitives` and of `occlusion`.

Dimension letters: F triangles, R rays or points. A mesh is triangles in its geom's frame,
counterclockwise as seen from outside. A triangle is met from outside only.

With a, b, c the corners as seen from the rays' origin and d a ray, the three products
d . (a x b), d . (b x c) and d . (c x a) have one sign where d passes through the triangle.
So inside is three linear forms, as is the inverse distance n . d / n . a with the normal
n = (b - a) x (c - a). A product of nearby corners loses digits, a x (b - a) does not.

A mesh is skipped where no ray meets the sphere around it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from soler1_jax.kernels.raycast.occlusion import Caster, Point
from soler1_jax.kernels.raycast.primitives import Frame, Picture, linear, smaller

Array = jax.Array

_SLACK = 1e-4
"""Triangles reach over their edges by this share of themselves, or there were cracks."""


class Ball(NamedTuple):
    """A sphere in the geom's frame around a mesh.

    Attributes:
      centre: float32 [3], metres.
      radius: float32 [], metres.
    """

    centre: Array
    radius: Array


def ball(corners: Array) -> Ball:
    """Return a sphere around all corners, float32 [F, 3, 3].

    The centre is the middle of the bounding box; the radius has a thousandth to spare for
    rounding.
    """
    points = corners.reshape(-1, 3)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = jnp.sqrt(jnp.max(jnp.sum((points - centre) ** 2, axis=-1)))
    return Ball(centre, 1.001 * radius)


class BallTerms(NamedTuple):
    """See `may_enter`."""

    middle: Array
    scale: Array
    always: Array


def ball_terms(frame: Frame, around: Ball) -> BallTerms:
    """Return the terms of the sphere around a mesh."""
    origin = frame.origin - around.centre
    outside = origin @ origin - around.radius**2
    safe = jnp.where(outside > 0, outside, 1.0)
    always = jnp.where(outside > 0, 0.0, 1.0)
    return BallTerms(-(origin @ frame.forms) / safe, 1.0 / safe, always)


def may_enter(terms: BallTerms, picture: Picture) -> Array:
    """Return 1 where rays may meet what is in the sphere, else 0, float32 [R]."""
    middle = linear(terms.middle, picture)
    root = middle * middle - picture.squared * terms.scale
    return jnp.where((root >= 0) & (middle > 0), 1.0, terms.always)


class TriangleTerms(NamedTuple):
    """See `triangle`."""

    depth: Array
    edges: Array
    cosine: Array


def triangle_terms(frame: Frame, corners: Array) -> TriangleTerms:
    """Return a triangle's terms; corners are float32 [3, 3] in the geom's frame."""
    a, b, c = corners - frame.origin
    normal = jnp.cross(b - a, c - a)
    volume = normal @ a
    # seen from behind, or no area: NaN is no hit
    volume = jnp.where(frame.present & (volume < 0), volume, jnp.nan)
    edges = jnp.stack([jnp.cross(a, b - a), jnp.cross(b, c - b), jnp.cross(c, a - c)])
    length = jnp.sqrt(normal @ normal)
    return TriangleTerms(
        (normal @ frame.forms) / volume,
        (edges @ frame.forms) / volume,
        (normal @ frame.light) / jnp.where(length > 0, length, 1.0),
    )


def triangle(terms: TriangleTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter a triangle."""
    w = linear(terms.depth, picture)
    a, b, c = (linear(terms.edges[edge], picture) for edge in range(3))
    inside = smaller(smaller(a, b), c) >= -_SLACK * w
    return jnp.where(inside, w, -1.0), jnp.broadcast_to(terms.cosine, w.shape)


class ShadeTerms(NamedTuple):
    """See `shade`."""

    ahead: Array
    sides: Array
    offsets: Array


def shade_terms(caster: Caster, corners: Array) -> ShadeTerms:
    """Return a triangle's terms as a caster of shadow.

    Light enters and leaves a mesh: the triangles where a line to the light leaves it are
    enough. A hidden mesh has NaN.
    """
    light = caster.light
    a, b, c = corners
    normal = jnp.cross(b - a, c - a)
    facing = normal @ light
    facing = jnp.where((facing > 0) & (caster.size[0] > 0), facing, jnp.nan)
    # shares of the corners opposite to c, a and b: (start - p) . (edge x light) / facing
    starts = jnp.stack([a, b, c])
    sides = jnp.cross(jnp.stack([b - a, c - b, a - c]), light) / facing
    inside = jnp.sum(starts * sides, axis=-1)
    ahead = normal / facing
    return ShadeTerms(-ahead, -sides, jnp.append(inside, ahead @ a))


def shade(terms: ShadeTerms, point: Point) -> Array:
    """Return whether a triangle shades the points."""

    def affine(form: Array, offset: Array) -> Array:
        x, y, z = point
        return form[0] * x + (form[1] * y + (form[2] * z + offset))

    a, b, c = (affine(terms.sides[i], terms.offsets[i]) for i in range(3))
    inside = smaller(smaller(a, b), c) >= -_SLACK
    return inside & (affine(terms.ahead, terms.offsets[3]) > 0)


class BallShadeTerms(NamedTuple):
    """See `may_shade`."""

    light: Array
    centre: Array
    squared_radius: Array


def ball_shade_terms(caster: Caster, around: Ball) -> BallShadeTerms:
    """Return the terms of the sphere around a mesh as a caster of shadow."""
    return BallShadeTerms(caster.light, around.centre, around.radius**2)


def may_shade(terms: BallShadeTerms, point: Point) -> Array:
    """Return 1 where what is in the sphere may shade the points, else 0, float32 [R]."""
    x, y, z = (component - terms.centre[i] for i, component in enumerate(point))
    toward = terms.light[0] * x + terms.light[1] * y + terms.light[2] * z
    squared = x * x + y * y + z * z
    across = squared - toward * toward
    near = squared <= terms.squared_radius
    return jnp.where((across <= terms.squared_radius) & ((toward < 0) | near), 1.0, 0.0)
