"""What the casts know of each geom: terms that do not depend on the ray, by kind.

Dimension letters: G geoms, M geoms or triangles of a group, R rays.

The implementations loop over the groups, and within a group over its terms; this is the
part that they share.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from soler1_jax.kernels.raycast import occlusion, primitives, triangles
from soler1_jax.kernels.raycast.shapes import (
    Geoms,
    GeomType,
    Rays,
    exists,
    meshes_by_geom,
)

Array = jax.Array

_ENTER = {
    0: (primitives.plane_terms, primitives.plane),
    2: (primitives.sphere_terms, primitives.sphere),
    3: (primitives.capsule_terms, primitives.capsule),
    4: (primitives.ellipsoid_terms, primitives.ellipsoid),
    5: (primitives.cylinder_terms, primitives.cylinder),
    6: (primitives.box_terms, primitives.box),
}
_SHADE = {
    2: (occlusion.sphere_terms, occlusion.sphere),
    3: (occlusion.capsule_terms, occlusion.capsule),
    4: (occlusion.ellipsoid_terms, occlusion.ellipsoid),
    5: (occlusion.cylinder_terms, occlusion.cylinder),
    6: (occlusion.box_terms, occlusion.box),
}


class Group(NamedTuple):
    """Geoms of one type, or the triangles of one mesh.

    Attributes:
      function: of the terms of one member and the rays (or points).
      terms: a pytree whose leaves are float32 [M, ...].
      members: int32 [M], each member's geom.
      ball: terms of the sphere around a mesh; None for other groups.
      ball_function: of these terms, above 0 for rays that may meet the sphere.
    """

    function: Callable[..., Any]
    terms: Any
    members: np.ndarray
    ball: Any = None
    ball_function: Callable[..., Any] | None = None


def _by_type(geom_types: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """Return the geoms of each type but meshes, the most numerous type last.

    One loop over the geoms of a type compiles several times faster than unrolled code.
    The last loop must not be the single pass that XLA would unroll: a loop's result is
    the one thing that it does not compute again for each consumer.
    """
    groups = [
        (kind, np.flatnonzero(np.equal(geom_types, kind)).astype(np.int32))
        for kind in sorted(set(geom_types) - {GeomType.MESH})
    ]
    return sorted(groups, key=lambda group: len(group[1]))


def _of(tree: Any, members: np.ndarray | int) -> Any:
    return jax.tree.map(lambda x: x[members], tree)


def enter_groups(
    geom_types: tuple[int, ...], geoms: Geoms, rays: Rays, to_light: Array
) -> list[Group]:
    """Return the groups whose functions give inverse distance and cosine."""
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    present = exists(geom_types, geoms)
    frames = primitives.Frame(
        origin=jnp.einsum("gij,gj->gi", axes, rays.origin - geoms.position),
        forms=axes @ rays.basis,
        light=axes @ to_light,
        size=jnp.where(present[:, None], geoms.size, 1.0),
        present=present,
    )
    groups = []
    for index, corners in meshes_by_geom(geom_types, geoms).items():
        frame = _of(frames, index)
        groups.append(
            Group(
                triangles.triangle,
                jax.vmap(triangles.triangle_terms, (None, 0))(frame, corners),
                np.full(len(corners), index, np.int32),
                triangles.ball_terms(frame, triangles.ball(corners)),
                triangles.may_enter,
            )
        )
    for kind, members in _by_type(geom_types):
        terms, function = _ENTER[kind]
        groups.append(Group(function, jax.vmap(terms)(_of(frames, members)), members))
    return groups


def shade_groups(
    geom_types: tuple[int, ...], geoms: Geoms, rays: Rays, to_light: Array
) -> list[Group]:
    """Return the groups whose functions tell points in shadow; planes cast none.

    Terms are (form [3, 3], origin [3], terms): `local_point` takes the first two, the
    function the last.
    """
    axes = jnp.swapaxes(geoms.rotation, -1, -2)
    origins = jnp.einsum("gij,gj->gi", axes, rays.origin - geoms.position)
    forms = axes @ rays.basis
    present = exists(geom_types, geoms)[:, None]
    meshed = np.equal(geom_types, GeomType.MESH)[:, None]
    # a mesh has no size of its own
    size = jnp.where(meshed, 1.0, geoms.size)
    casters = occlusion.Caster(axes @ to_light, jnp.where(present, size, -1.0))
    groups = []
    for index, corners in meshes_by_geom(geom_types, geoms).items():
        caster, count = _of(casters, index), len(corners)
        place = (forms[index], origins[index])
        spread = [jnp.broadcast_to(x, (count, *x.shape)) for x in place]
        terms = jax.vmap(triangles.shade_terms, (None, 0))(caster, corners)
        around = triangles.ball_shade_terms(caster, triangles.ball(corners))
        groups.append(
            Group(
                triangles.shade,
                (*spread, terms),
                np.full(count, index, np.int32),
                (*place, around),
                triangles.may_shade,
            )
        )
    for kind, members in _by_type(geom_types):
        if kind in _SHADE:
            terms, function = _SHADE[kind]
            terms = jax.vmap(terms)(_of(casters, members))
            groups.append(
                Group(function, (forms[members], origins[members], terms), members)
            )
    return groups


def local_point(
    form: Array, origin: Array, x: Array, y: Array, z: Array
) -> tuple[Array, Array, Array]:
    """Return basis^-1 coordinates (x, y, z) relative to the rays' origin in a frame."""
    return tuple(
        form[i][0] * x + (form[i][1] * y + (form[i][2] * z + origin[i]))
        for i in range(3)
    )
