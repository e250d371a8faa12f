"""Pictures of MuJoCo scenes of primitives, by ray casting inside jit.

Dimension letters: G geoms, H and W picture height and width. Lengths are metres, vectors
are in the world frame. Every function takes one world; use `jax.vmap` over worlds.

Conventions are MuJoCo's: a camera looks along its -z axis with +y up, `fovy` is the
vertical field of view in degrees, depth is measured along the viewing axis, row 0 is the
top row. The surface model is Lambert's with one directional light and hard shadows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from mujoco import mjx

from soler1_jax.common.errors import UserError
from soler1_jax.kernels.raycast import api as raycast
from soler1_jax.kernels.raycast.api import Geoms, GeomType

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
      UserError: a geom is neither a plane nor a sphere, capsule, ellipsoid, cylinder or
        box.
    """
    types = tuple(int(kind) for kind in model.geom_type)
    known = {int(kind) for kind in GeomType}
    for index, kind in enumerate(types):
        if kind not in known:
            raise UserError(
                "only primitive geoms can be rendered; "
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
    )


def rays_of(camera: Camera, height: int, width: int) -> Array:
    """Return the direction through the middle of each pixel, float32 [3, H * W].

    Directions have length 1 along the viewing axis, which makes distances depths.
    """
    half = jnp.tan(jnp.deg2rad(jnp.asarray(camera.fovy, jnp.float32)) / 2)
    rows = (1 - (2 * jnp.arange(height) + 1) / height) * half
    columns = ((2 * jnp.arange(width) + 1) / width - 1) * half * (width / height)
    right = jnp.tile(columns, height)
    up = jnp.repeat(rows, width)
    axes = camera.rotation
    return jnp.stack(
        [axes[i, 0] * right + axes[i, 1] * up - axes[i, 2] for i in range(3)]
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

    Raises:
      ValueError: unknown geom type.
    """
    directions = rays_of(camera, height, width)
    to_light = -light.direction / jnp.linalg.norm(light.direction)
    hits = raycast.cast(geom_types, geoms, camera.position, directions, to_light)
    points = camera.position[:, None] + hits.distance * directions
    lit = hits.cosine
    if shadows:
        dark = raycast.occluded(geom_types, geoms, points, hits.geom, to_light)
        lit = jnp.where(dark, 0.0, lit)
    shades = jnp.ones_like(lit)
    if checker > 0:
        planes = [index for index, kind in enumerate(geom_types) if kind == 0]
        shades = _checker(points, hits.geom, planes, checker)
    rgb = _colours(geoms, hits.geom, lit, shades, light)
    shape = (height, width)
    return RenderedImage(
        rgb.reshape(*shape, 3), hits.distance.reshape(shape), hits.geom.reshape(shape)
    )


def _checker(points: Array, geom: Array, planes: list[int], side: float) -> Array:
    squares = jnp.floor(points[0] / side) + jnp.floor(points[1] / side)
    odd = squares - 2 * jnp.floor(squares / 2)
    on_plane = jnp.isin(geom, jnp.array(planes)) if planes else geom < -1
    return jnp.where(on_plane, 1.0 - 0.25 * odd, 1.0)


def _colours(
    geoms: Geoms, geom: Array, lit: Array, shades: Array, light: Light
) -> Array:
    """Return uint8 [R, 3]; the bytes are packed in one integer so that loops vectorise."""
    packed = jnp.zeros(geom.shape, jnp.uint32)
    for channel in range(3):
        base = jnp.full(geom.shape, SKY[channel])
        for index in range(geoms.rgba.shape[0]):
            base = jnp.where(geom == index, geoms.rgba[index, channel], base)
        bright = light.ambient[channel] + light.diffuse[channel] * lit
        value = jnp.where(geom < 0, base, base * bright * shades)
        value = jnp.clip(value, 0.0, 1.0) * 255.0 + 0.5
        byte = value.astype(jnp.int32).astype(jnp.uint32)
        packed = packed | (byte << (8 * channel))
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]
