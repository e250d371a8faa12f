"""Pictures of MuJoCo scenes of primitives and small meshes, by ray casting inside jit.

Dimension letters: G geoms, H and W picture height and width. Lengths are metres, vectors
are in the world frame. Every function takes one world; use `jax.vmap` over worlds.

Conventions are MuJoCo's: a camera looks along its -z axis with +y up, `fovy` is the
vertical field of view in degrees, depth is measured along the viewing axis, row 0 is the
top row. The surface model is Lambert's with one directional light and hard shadows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.envs.engine import mjx
from soler1_jax.kernels.raycast import api as raycast
from soler1_jax.kernels.raycast.api import Geoms, GeomType, Hits, Rays

Array = jax.Array

SKY = (0.55, 0.65, 0.75)
"""Colour of rays that meet nothing."""


class Camera(NamedTuple):
    """A pinhole camera.

    Attributes:
      position: float32 [3], metres.
      rotation: float32 [3, 3], columns are the camera's right, up and backward axes.
      fovy: float32 [] or float, vertical field of view in degrees.
    """

    position: Array
    rotation: Array
    fovy: Array | float


class Light(NamedTuple):
    """One directional light and the light that comes from everywhere.

    Attributes:
      direction: float32 [3], the way the light travels (as MuJoCo's light_dir), any
        length above zero.
      ambient: float32 [3], added to every surface, as a fraction of its colour.
      diffuse: float32 [3], added where the light falls squarely and unhindered.
    """

    direction: Array
    ambient: Array
    diffuse: Array


class RenderedImage(NamedTuple):
    """What a camera sees.

    Attributes:
      rgb: uint8 [H, W, 3].
      depth: float32 [H, W], metres along the viewing axis; `raycast.FAR` for sky.
      segmentation: int32 [H, W], index of the geom, -1 for sky.
    """

    rgb: Array
    depth: Array
    segmentation: Array


def types_of(model: mjx.Model) -> tuple[int, ...]:
    """Return the geom types of a model as the static tuple that `render` takes.

    Raises:
      UserError: a geom is neither a plane nor a sphere, capsule, ellipsoid, cylinder,
        box or mesh.
    """
    types = tuple(int(kind) for kind in model.geom_type)
    known = {int(kind) for kind in GeomType}
    for index, kind in enumerate(types):
        if kind not in known:
            raise UserError(
                "only primitive geoms and meshes can be rendered; "
                f"geom {index} has MuJoCo's geom type {kind}; "
                "replace it by primitives that fit it"
            )
    return types


def geoms_of(model: mjx.Model, data: mjx.Data, visible: Array | None = None) -> Geoms:
    """Return where the geoms of a world are and how they look.

    Args:
      model: gives sizes and colours; fields may differ from world to world.
      data: gives poses, after kinematics.
      visible: bool [G]; by default the geoms whose alpha is above zero.
    """
    shape = model.geom_rgba.shape[:-1]
    return Geoms(
        position=data.geom_xpos,
        rotation=data.geom_xmat.reshape(*shape, 3, 3),
        size=jnp.asarray(model.geom_size),
        rgba=jnp.asarray(model.geom_rgba),
        visible=jnp.asarray(model.geom_rgba)[..., 3] > 0
        if visible is None
        else visible,
        meshes=_meshes_of(model),
    )


def _meshes_of(model: mjx.Model) -> tuple[np.ndarray, ...]:
    """Return the triangles of each mesh geom, float32 [F, 3, 3], in its frame."""
    corners = []
    ends = np.append(model.mesh_faceadr[1:], len(model.mesh_face))
    for kind, mesh in zip(model.geom_type, model.geom_dataid, strict=True):
        if kind == GeomType.MESH:
            faces = model.mesh_face[model.mesh_faceadr[mesh] : ends[mesh]]
            vertices = np.asarray(model.mesh_vert, np.float32)
            corners.append(vertices[model.mesh_vertadr[mesh] + faces])
    return tuple(corners)


def rays_of(camera: Camera, height: int, width: int) -> Rays:
    """Return the rays through the middles of the pixels, row by row, R = H * W.

    Directions have length 1 along the viewing axis, which makes distances depths.
    """
    half = jnp.tan(jnp.deg2rad(jnp.asarray(camera.fovy, jnp.float32)) / 2)
    scale = jnp.stack([half * (width / height), half, -jnp.ones_like(half)])
    columns = (2 * jnp.arange(width) + 1) / width - 1
    rows = 1 - (2 * jnp.arange(height) + 1) / height
    return Rays(
        origin=camera.position,
        basis=camera.rotation * scale,
        u=jnp.tile(columns, height),
        v=jnp.repeat(rows, width),
    )


def render(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    camera: Camera,
    light: Light,
    *,
    height: int,
    width: int,
    shadows: bool = True,
    checker: float = 0.0,
    implementation: str | None = None,
) -> RenderedImage:
    """Return colour, depth and segmentation of one view of one world.

    Args:
      geom_types: G static ints, see `types_of`.
      geoms: see `geoms_of`.
      camera: see `Camera`.
      light: see `Light`.
      height: rows, pixels.
      width: columns, pixels.
      shadows: whether geoms (planes apart) keep the light from each other.
      checker: side in metres of the squares, alternately darker, on planes; 0: plain.
      implementation: of the ray casts, see `raycast.cast`.

    Raises:
      ValueError: unknown geom type or implementation.
    """
    rays = rays_of(camera, height, width)
    to_light = -light.direction / jnp.linalg.norm(light.direction)
    chosen = {"implementation": implementation}
    hits = raycast.cast(geom_types, geoms, rays, to_light, **chosen)
    lit = hits.cosine
    if shadows:
        dark = raycast.occluded(geom_types, geoms, rays, hits, to_light, **chosen)
        lit = jnp.where(dark, 0.0, lit)
    shades = _checker(geom_types, rays, hits, checker) if checker > 0 else None
    rgb = _colours(geoms.rgba, hits.geom, lit, shades, light)
    shape = (height, width)
    return RenderedImage(
        rgb.reshape(*shape, 3), hits.distance.reshape(shape), hits.geom.reshape(shape)
    )


def _checker(geom_types: tuple[int, ...], rays: Rays, hits: Hits, side: float) -> Array:
    """Return the factor by which squares on planes are darkened, float32 [R]."""
    odd = jnp.zeros_like(hits.distance)
    for axis in range(2):
        form = rays.basis[axis] / side
        step = form[0] * rays.u + form[1] * rays.v + form[2]
        odd += jnp.floor(rays.origin[axis] / side + step * hits.distance)
    odd = odd - 2 * jnp.floor(odd / 2)
    on_plane = hits.geom < -1
    for index, kind in enumerate(geom_types):
        if kind == GeomType.PLANE:
            on_plane = on_plane | (hits.geom == index)
    return jnp.where(on_plane, 1.0 - 0.25 * odd, 1.0)


def _byte(value: Array) -> Array:
    """Return round(value) for value in [0, 255] as uint32; adding 2**23 shifts out the
    fraction, where a conversion would also have to handle infinity and NaN."""
    value = jnp.where(value < 255.0, value, 255.0) + 2.0**23
    return jax.lax.bitcast_convert_type(value, jnp.uint32) & jnp.uint32(255)


def _colours(
    rgba: Array, geom: Array, lit: Array, shades: Array | None, light: Light
) -> Array:
    """Return uint8 [R, 3]; the bytes travel in one integer so that loops vectorise."""
    palette = sum(_byte(rgba[:, i] * 255.0) << (8 * i) for i in range(3))
    base = jnp.full(geom.shape, jnp.uint32(0))
    for index in range(rgba.shape[0]):
        base = jnp.where(geom == index, palette[index], base)
    packed = jnp.zeros(geom.shape, jnp.uint32)
    for channel in range(3):
        colour = ((base >> (8 * channel)) & 255).astype(jnp.int32).astype(jnp.float32)
        bright = light.ambient[channel] + light.diffuse[channel] * lit
        bright = bright if shades is None else bright * shades
        value = jnp.where(geom < 0, SKY[channel] * 255.0, colour * bright)
        packed = packed | (_byte(value) << (8 * channel))
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]
