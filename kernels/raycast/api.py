"""Ray casting against MuJoCo's primitives: the entry points.

Dimension letters: G geoms, R rays. Lengths are metres, vectors are in the world frame.
Every function takes one world; use `jax.vmap` over worlds.

A ray counts as a hit where it *enters* a primitive: one that starts inside does not see
it, as under the back-face culling of MuJoCo's renderer (`mj_ray` reports the exit).
"""

from types import ModuleType

import jax
from soler1_jax.kernels.raycast import packed, reference
from soler1_jax.kernels.raycast.shapes import FAR, NEAR, Geoms, GeomType, Hits, Rays

__all__ = ["FAR", "NEAR", "GeomType", "Geoms", "Hits", "Rays", "cast", "occluded"]

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
    rays: Rays,
    to_light: Array,
    *,
    implementation: str = "xla",
) -> Hits:
    """Return the nearest hit of rays that leave one point.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the primitives.
      rays: directions may have any length; distances are in units of it.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: "xla" (packed keys: distances keep a relative precision of
        2**-15 with up to 32 geoms, cosines of 1/255) or "reference" (exact, slow).

    Raises:
      ValueError: unknown geom type or implementation.
    """
    chosen = _choose(geom_types, implementation)
    return chosen.cast(geom_types, geoms, rays, to_light)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
    *,
    implementation: str = "xla",
) -> Array:
    """Return whether something stands between a hit and a light infinitely far away.

    Planes cast no shadow: nothing that can be seen lies behind one. A geom does not shade
    itself: it is convex, and where it faces away from the light the cosine is zero.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the primitives.
      rays: the rays that were cast.
      hits: what they met; the result means nothing where they met nothing.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: as for `cast`.

    Returns:
      bool [R].

    Raises:
      ValueError: unknown geom type or implementation.
    """
    chosen = _choose(geom_types, implementation)
    return chosen.occluded(geom_types, geoms, rays, hits, to_light)
