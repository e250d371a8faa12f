"""Ray casting against MuJoCo's primitives and small meshes: the entry points.

Dimension letters: G geoms, R rays. Lengths are metres, vectors are in the world frame.
Every function takes one world; use `jax.vmap` over worlds.

A ray counts as a hit where it *enters* a geom: one that starts inside does not see
it, as under the back-face culling of MuJoCo's renderer (`mj_ray` reports the exit).
"""

import functools
from collections.abc import Callable

import jax
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.raycast import normals as normals_lib
from soler1_jax.kernels.raycast import packed, reference, tpu
from soler1_jax.kernels.raycast.shapes import (
    FAR,
    NEAR,
    Geoms,
    GeomType,
    Hits,
    Rays,
)

__all__ = [
    "FAR",
    "NEAR",
    "GeomType",
    "Geoms",
    "Hits",
    "Rays",
    "cast",
    "normals",
    "occluded",
]

Array = jax.Array

_SUPPORTED = ("xla", "pallas_tpu", "interpret")
_MISSING = {
    "pallas_gpu": "on NVIDIA use 'xla'",
    "cudnn": "it casts no rays; on NVIDIA use 'xla'",
}


def _choose(
    function: str,
    geom_types: tuple[int, ...],
    geoms: Geoms,
    implementation: str | None,
) -> Callable:
    known = {int(kind) for kind in GeomType}
    for index, kind in enumerate(geom_types):
        if int(kind) not in known:
            raise ValueError(
                "only planes, spheres, capsules, ellipsoids, cylinders, boxes and meshes"
                f" can be cast; geom {index} has type {int(kind)}"
            )
    meshes = sum(kind == GeomType.MESH for kind in geom_types)
    if len(geoms.meshes) != meshes:
        raise ValueError(
            "geoms.meshes must hold triangles for each geom of type MESH; got"
            f" {len(geoms.meshes)} for {meshes}; pass one array a mesh, in order"
        )
    for corners in geoms.meshes:
        if corners.ndim != 3 or corners.shape[1:] != (3, 3) or not len(corners):
            raise ValueError(
                "a mesh must be triangles [F, 3, 3], at least one; got shape"
                f" {list(corners.shape)}; index vertices with faces"
            )
    if implementation == "reference":
        return getattr(reference, function)
    name = dispatch.choose_implementation(
        "raycast", implementation, _SUPPORTED, _MISSING
    )
    if name == "xla":
        return getattr(packed, function)
    return functools.partial(
        getattr(tpu, function), interpret=dispatch.interpret_params(name)
    )


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    to_light: Array,
    *,
    implementation: str | None = None,
) -> Hits:
    """Return the nearest hit of rays that leave one point.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the geoms; a mesh is cast triangle by triangle, unless no ray (of any world
        that `jax.vmap` casts at once, or on TPU of 2,048 neighbours) meets the sphere
        around it.
      rays: directions may have any length; distances are in units of it.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: "xla" (packed keys: distances keep a relative precision of
        2**-15 with up to 32 geoms, cosines of 1/255), "pallas_tpu" or "interpret" (its
        program on any machine; both exact to float32), "reference" (exact, slow), or
        None, which is "pallas_tpu" on TPU and "xla" elsewhere.

    Raises:
      ValueError: unknown geom type or implementation, or meshes that do not fit.
    """
    chosen = _choose("cast", geom_types, geoms, implementation)
    return chosen(geom_types, geoms, rays, to_light)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
    *,
    implementation: str | None = None,
) -> Array:
    """Return whether something stands between a hit and a light infinitely far away.

    Planes cast no shadow: nothing that can be seen lies behind one. A geom does not shade
    itself: a primitive is convex, and where it faces away from the light the cosine is
    zero. A mesh does not shade itself either, although it need not be convex.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the geoms.
      rays: the rays that were cast.
      hits: what they met; the result means nothing where they met nothing.
      to_light: float32 [3], unit vector from the scene to the light.
      implementation: as for `cast`.

    Returns:
      bool [R].

    Raises:
      ValueError: unknown geom type or implementation, or meshes that do not fit.
    """
    chosen = _choose("occluded", geom_types, geoms, implementation)
    return chosen(geom_types, geoms, rays, hits, to_light)


def normals(geom_types: tuple[int, ...], geoms: Geoms, rays: Rays, hits: Hits) -> Array:
    """Return the outward unit normals of the surfaces that were hit.

    Args:
      geom_types: G static values of `GeomType`.
      geoms: the geoms.
      rays: the rays that were cast.
      hits: what they met, of any implementation; its distances bound the precision of
        curved surfaces' normals.

    Returns:
      float32 [3, R] in the world frame; zero where nothing was hit.

    Raises:
      ValueError: unknown geom type, or meshes that do not fit.
    """
    _choose("cast", geom_types, geoms, "reference")
    return normals_lib.normals(geom_types, geoms, rays, hits)
