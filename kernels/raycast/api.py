"""Ray casting against MuJoCo's primitives: the entry points.

Dimension letters: G geoms, R rays. Lengths are metres, vectors are in the world frame.
Every function takes one world; use `jax.vmap` over worlds.

A ray counts as a hit where it *enters* a primitive: one that starts inside does not see
it, as under the back-face culling of MuJoCo's renderer (`mj_ray` reports the exit).
"""

from types import ModuleType

import jax
from soler1_jax.kernels.raycast import packed, reference
from soler1_jax.kernels.raycast.shapes import FAR, NEAR, Geoms, GeomType, Hits

__all__ = ["FAR", "NEAR", "GeomType", "Geoms", "Hits", "cast", "occluded"]

Array = jax.Array

_IMPLEMENTATIONS = {"xla": packed, "reference": reference}


def _choose(geom_types: tuple[int, ...], implementation: str) -> ModuleType:
    known = {int(kind) for kind in GeomType}
    for index, kind in enumerate(geom_types):
        if int(kind) not in known:
            raise ValueError(
                "only planes, spheres, capsules, ellipsoids, cylinders and boxes can be"
                f" cast; geom {index} has type {int(kind)}"
            )
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is one of {sorted(_IMPLEMENTATIONS)}; got {implementation!r}"
        )
    return _IMPLEMENTATIONS[implementation]


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    origin: Array,
    directions: Array,
    to_light: Array,
    *,
    implementation: str = "xla",
) -> Hits:
    """Return the nearest hit of rays that leave one point.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the primitives.
      origin: float32 [3], metres.
      directions: float32 [3, R], any length; distances are in units of it.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: "xla" (packed keys: distances keep a relative precision of
        2**-15 with up to 32 geoms, cosines of 1/255) or "reference" (exact, slow).

    Raises:
      ValueError: unknown geom type or implementation.
    """
    chosen = _choose(geom_types, implementation)
    return chosen.cast(geom_types, geoms, origin, directions, to_light)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    points: Array,
    owner: Array,
    to_light: Array,
    *,
    implementation: str = "xla",
) -> Array:
    """Return whether something lies between points and a light infinitely far away.

    Planes cast no shadow: nothing that can be seen lies behind one.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the primitives.
      points: float32 [3, R], on the outside or the surface of every primitive.
      owner: int32 [R], the geom on whose surface the point lies (it cannot shade its own
        lit side, being convex); -1 for none.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: as for `cast`.

    Returns:
      bool [R].

    Raises:
      ValueError: unknown geom type or implementation.
    """
    chosen = _choose(geom_types, implementation)
    return chosen.occluded(geom_types, geoms, points, owner, to_light)
