"""Where a ray enters each primitive, and how squarely light falls there.

Dimension letters: R rays. Lengths are metres.

Rays leave one point o through a picture plane: their direction is `form . (u, v, 1)` in
each component, where a *form* is float32 [3]. What is computed is not the distance t but
its inverse w = 1 / t, because dividing "o + t d is inside" by t makes every plane linear
and every quadric's larger root the entry:

    n.(o + t d) <= h     ->  w (n.o - h) + n.d <= 0
    |o + t d|^2 <= r^2   ->  w^2 (|o|^2 - r^2) + 2 w o.d + |d|^2 <= 0

so that one root per round surface and no division are left per ray (shading a round
surface takes one). Each primitive comes as two functions: `<name>_terms` reduces a geom
to the numbers that do not depend on the ray, `<name>` takes these and the rays and
returns `(w, cosine)`. A miss is a w that is not positive or NaN; so is a geom that must
not be hit. Maxima are spelt with `where`: `jnp.maximum` must propagate NaN, which costs
three instructions instead of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

FAINT = 1e-12


class Frame(NamedTuple):
    """One geom as seen from the point that the rays leave.

    Attributes:
      origin: float32 [3], that point in the geom's frame, metres.
      forms: float32 [3, 3], row i gives the direction's component along the geom's axis
        i as a form.
      light: float32 [3], unit vector to the light in the geom's frame.
      size: float32 [3], metres.
      present: bool [], whether the geom can be hit.
    """

    origin: Array
    forms: Array
    light: Array
    size: Array
    present: Array


class Picture(NamedTuple):
    """What all geoms share for one set of rays.

    Attributes:
      u: float32 [R], v: float32 [R], picture coordinates.
      products: float32 [R] three times, u u, u v and v v.
      squared: float32 [R], squared length of the direction.
      light: float32 [R], direction times the unit vector to the light.
    """

    u: Array
    v: Array
    products: tuple[Array, Array, Array]
    squared: Array
    light: Array


def larger(a: Array, b: Array) -> Array:
    """Return the larger of two arrays; `b` where either is NaN."""
    return jnp.where(a > b, a, b)


def smaller(a: Array, b: Array) -> Array:
    """Return the smaller of two arrays; `b` where either is NaN."""
    return jnp.where(a < b, a, b)


def linear(form: Array, picture: Picture) -> Array:
    """Return form . (u, v, 1), [R]."""
    return form[0] * picture.u + (form[1] * picture.v + form[2])


def square(forms: Array) -> Array:
    """Return the coefficients [6] of the summed squares of forms [N, 3]."""
    a, b, c = forms[:, 0], forms[:, 1], forms[:, 2]
    return jnp.stack([a @ a, 2 * a @ b, b @ b, 2 * a @ c, 2 * b @ c, c @ c])


def quadratic(coefficients: Array, picture: Picture) -> Array:
    """Return the quadratic with these coefficients, see `square`, [R]."""
    uu, uv, vv = picture.products
    c = coefficients
    high = c[0] * uu + (c[1] * uv + c[2] * vv)
    return high + (c[3] * picture.u + (c[4] * picture.v + c[5]))


def picture_of(u: Array, v: Array, basis: Array, to_light: Array) -> Picture:
    """Return the shared terms of rays with direction basis @ (u, v, 1)."""
    plain = Picture(u, v, (u * u, u * v, v * v), u, u)
    return plain._replace(
        squared=quadratic(square(basis), plain), light=linear(to_light @ basis, plain)
    )


class Slab(NamedTuple):
    """The space between two parallel faces, as bounds on w.

    Attributes:
      upper: float32 [], w may not exceed upper * component + ceiling.
      ceiling: float32 [], infinite where neither face is entered.
      lower: float32 [2], w may not be below either of lower * component.
    """

    upper: Array
    ceiling: Array
    lower: Array


def slab(origin: Array, half: Array) -> Slab:
    """Return the bounds for faces at +half and -half of an axis."""
    front, back = origin - half, -origin - half
    inside = (front <= 0) & (back <= 0)
    upper = jnp.where(
        front > 0, -1.0 / front, jnp.where(back > 0, 1.0 / back, 0.0 * origin)
    )
    lower = jnp.stack(
        [
            jnp.where(front < 0, -1.0 / front, 0.0),
            jnp.where(back < 0, 1.0 / back, 0.0),
        ]
    )
    return Slab(upper, jnp.where(inside, jnp.inf, 0.0), lower)


def _bounds(terms: Slab, component: Array) -> tuple[Array, Array]:
    high = terms.upper * component + terms.ceiling
    low = larger(terms.lower[0] * component, terms.lower[1] * component)
    return high, low


class PlaneTerms(NamedTuple):
    """See `plane`."""

    depth: Array
    forms: Array
    origin: Array
    half: Array
    cosine: Array


def plane_terms(frame: Frame) -> PlaneTerms:
    """Return a plane's terms (size: half lengths along x and y, 0 for endless)."""
    height = jnp.where(frame.present & (frame.origin[2] > 0), frame.origin[2], jnp.nan)
    return PlaneTerms(
        -frame.forms[2] / height,
        frame.forms[:2],
        frame.origin[:2],
        jnp.where(frame.size > 0, frame.size, jnp.inf)[:2],
        frame.light[2],
    )


def plane(terms: PlaneTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays meet the front of a plane."""
    w = linear(terms.depth, picture)
    x = linear(terms.forms[0], picture) + terms.origin[0] * w
    y = linear(terms.forms[1], picture) + terms.origin[1] * w
    inside = (jnp.abs(x) <= terms.half[0] * w) & (jnp.abs(y) <= terms.half[1] * w)
    return jnp.where(inside, w, -1.0), jnp.broadcast_to(terms.cosine, w.shape)


class SphereTerms(NamedTuple):
    """See `sphere`."""

    middle: Array
    scale: Array
    start: Array
    slope: Array


def sphere_terms(frame: Frame) -> SphereTerms:
    """Return a sphere's terms (size: radius)."""
    radius = frame.size[0]
    outside = frame.origin @ frame.origin - radius * radius
    outside = jnp.where(frame.present & (outside > 0), outside, jnp.nan)
    return SphereTerms(
        -(frame.origin @ frame.forms) / outside,
        1.0 / outside,
        (frame.origin @ frame.light) / radius,
        1.0 / radius,
    )


def sphere(terms: SphereTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter a sphere."""
    middle = linear(terms.middle, picture)
    w = middle + jnp.sqrt(middle * middle - picture.squared * terms.scale)
    return w, terms.start + picture.light * terms.slope / w


class EllipsoidTerms(NamedTuple):
    """See `ellipsoid`."""

    middle: Array
    root: Array
    forms: Array
    origin: Array
    light: Array


def ellipsoid_terms(frame: Frame) -> EllipsoidTerms:
    """Return an ellipsoid's terms (size: three radii)."""
    scale = 1.0 / frame.size
    origin, forms = frame.origin * scale, frame.forms * scale[:, None]
    outside = origin @ origin - 1.0
    outside = jnp.where(frame.present & (outside > 0), outside, jnp.nan)
    middle = -(origin @ forms) / outside
    return EllipsoidTerms(
        middle,
        square(middle[None]) - square(forms) / outside,
        forms * scale[:, None],
        origin * scale,
        frame.light,
    )


def ellipsoid(terms: EllipsoidTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter an ellipsoid."""
    w = linear(terms.middle, picture) + jnp.sqrt(quadratic(terms.root, picture))
    x, y, z = (
        linear(terms.forms[axis], picture) + terms.origin[axis] * w for axis in range(3)
    )
    toward = terms.light[0] * x + terms.light[1] * y + terms.light[2] * z
    return w, toward * jax.lax.rsqrt(x * x + y * y + z * z)


class CylinderTerms(NamedTuple):
    """See `cylinder`."""

    middle: Array
    root: Array
    ceiling: Array
    far: Array
    axis: Array
    caps: Slab
    start: Array
    slope: Array
    cosine: Array


def cylinder_terms(frame: Frame) -> CylinderTerms:
    """Return a cylinder's terms (size: radius, half length along z)."""
    radius, half_length = frame.size[0], frame.size[1]
    origin, forms, light = frame.origin[:2], frame.forms[:2], frame.light[:2]
    outside = origin @ origin - radius * radius
    outside = jnp.where(jnp.abs(outside) < FAINT, FAINT, outside)
    middle = -(origin @ forms) / outside
    root = square(middle[None]) - square(forms) / outside
    caps = slab(frame.origin[2], half_length)
    ceiling = jnp.where(frame.present, caps.ceiling, -jnp.inf)
    beside = outside > 0
    return CylinderTerms(
        middle,
        root,
        jnp.where(beside, 0.0, jnp.inf),
        jnp.where(beside, -1.0, 1.0),
        frame.forms[2],
        caps._replace(ceiling=ceiling),
        (origin @ light) / radius,
        (light @ forms) / radius,
        jnp.sign(frame.origin[2]) * frame.light[2],
    )


def cylinder(terms: CylinderTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter a cylinder."""
    cap, low = _bounds(terms.caps, linear(terms.axis, picture))
    middle = linear(terms.middle, picture)
    root = jnp.sqrt(quadratic(terms.root, picture))
    side = (middle + terms.ceiling) + root
    # `side` must come second: a ray beside the cylinder has NaN there and must miss
    w = smaller(cap, side)
    low = larger(low, middle + terms.far * root)
    cosine = terms.start + linear(terms.slope, picture) / w
    return jnp.where(w >= low, w, -1.0), jnp.where(cap < side, terms.cosine, cosine)


class CapsuleTerms(NamedTuple):
    """See `capsule`."""

    middle: Array
    root: Array
    axis: Array
    height: Array
    straight: Array
    half_length: Array
    origin: Array
    ends: Array
    scale: Array
    start: Array
    slope: Array
    lean: Array


def capsule_terms(frame: Frame) -> CapsuleTerms:
    """Return a capsule's terms (size: radius, half length of its axis along z)."""
    radius, half_length = frame.size[0], frame.size[1]
    origin, forms, z = frame.origin[:2], frame.forms[:2], frame.origin[2]
    outside = origin @ origin - radius * radius
    across = origin @ forms
    beside = outside > FAINT
    divisor = jnp.where(beside, outside, -1.0)
    ends = jnp.stack([z - half_length, z + half_length])
    beyond = outside + ends * ends
    beyond = jnp.where(frame.present & (beyond > 0), beyond, jnp.nan)
    middle = -across / divisor
    # from within the endless cylinder, the nearer end is the only thing to be seen
    nearer = jnp.zeros(3).at[2].set(jnp.sign(z) * 1e6)
    return CapsuleTerms(
        middle,
        square(middle[None]) - square(forms) / divisor,
        frame.forms[2],
        jnp.where(beside, frame.forms[2], nearer),
        jnp.where(beside & frame.present, half_length, -1.0),
        half_length,
        z,
        -(across + ends[:, None] * frame.forms[2]) / beyond[:, None],
        1.0 / beyond,
        (frame.origin @ frame.light) / radius,
        1.0 / radius,
        frame.light[2] / radius,
    )


def capsule(terms: CapsuleTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter a capsule.

    A ray enters the endless cylinder around the capsule either beside its straight part,
    which is then the hit, or beyond one end, when only that end's ball can be hit.
    """
    side = linear(terms.middle, picture) + jnp.sqrt(quadratic(terms.root, picture))
    height = linear(terms.height, picture) + terms.origin * side
    top = height > 0
    ends = [linear(form, picture) for form in terms.ends]
    middle = jnp.where(top, ends[0], ends[1])
    scale = jnp.where(top, terms.scale[0], terms.scale[1])
    ball = middle + jnp.sqrt(middle * middle - picture.squared * scale)
    w = jnp.where(jnp.abs(height) <= terms.straight * side, side, ball)
    distance = 1.0 / w
    core = terms.origin + linear(terms.axis, picture) * distance
    core = smaller(larger(core, -terms.half_length), terms.half_length)
    cosine = terms.start + picture.light * terms.slope * distance
    return w, cosine - core * terms.lean


class BoxTerms(NamedTuple):
    """See `box`."""

    forms: Array
    slabs: Slab
    cosines: Array


def box_terms(frame: Frame) -> BoxTerms:
    """Return a box's terms (size: half extents)."""
    slabs = jax.vmap(slab)(frame.origin, frame.size)
    ceiling = jnp.where(frame.present, slabs.ceiling, -jnp.inf)
    # seen from outside, a face that is entered is on the origin's side of the box
    cosines = jnp.sign(frame.origin) * frame.light
    return BoxTerms(frame.forms, slabs._replace(ceiling=ceiling), cosines)


def box(terms: BoxTerms, picture: Picture) -> tuple[Array, Array]:
    """Return where rays enter a box."""
    bounds = []
    for axis in range(3):
        face = Slab(*(term[axis] for term in terms.slabs))
        bounds.append(_bounds(face, linear(terms.forms[axis], picture)))
    (a, a_low), (b, b_low), (c, c_low) = bounds
    w = smaller(smaller(a, b), c)
    low = larger(larger(a_low, b_low), c_low)
    cosine = jnp.where(w == b, terms.cosines[1], terms.cosines[2])
    cosine = jnp.where(w == a, terms.cosines[0], cosine)
    return jnp.where(w >= low, w, -1.0), cosine
