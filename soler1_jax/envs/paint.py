"""How a world looks: colours, light and cameras, drawn at random.

Objects have saturated colours, everything else is muted, so that a colour word in a task
can only mean an object. Dimension letters: G geoms, V views (external, wrist).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.envs import model
from soler1_jax.envs.dice import Dice
from soler1_jax.envs.tasks import SHAPES

Array = jax.Array

# In the order of tasks.COLORS.
OBJECT_RGB = np.asarray(
    [
        (0.85, 0.10, 0.10),
        (0.10, 0.62, 0.16),
        (0.12, 0.25, 0.88),
        (0.93, 0.84, 0.10),
        (0.55, 0.14, 0.72),
        (0.96, 0.50, 0.06),
    ],
    np.float32,
)
TABLE_RGB = np.asarray(
    [
        (0.72, 0.70, 0.66),
        (0.55, 0.56, 0.58),
        (0.62, 0.53, 0.43),
        (0.80, 0.80, 0.80),
        (0.40, 0.40, 0.42),
    ],
    np.float32,
)
PART_RGB = np.asarray(
    [
        (0.88, 0.88, 0.84),
        (0.45, 0.32, 0.22),
        (0.30, 0.50, 0.52),
        (0.70, 0.58, 0.50),
    ],
    np.float32,
)
BASE_RGB = np.asarray(
    [(0.35, 0.36, 0.38), (0.60, 0.62, 0.64), (0.36, 0.28, 0.22)], np.float32
)
PLATE_DARK = np.asarray((0.16, 0.24, 0.26), np.float32)
PLATE_LIGHT = np.asarray((0.93, 0.93, 0.95), np.float32)

EXTERNAL_EYE = (0.0, -0.62, 0.52)
EXTERNAL_LOOK = (0.0, 0.005, 0.07)
EXTERNAL_FOVY = 40.0
WRIST_EYE = (0.0, -0.1, 0.085)
WRIST_LOOK = (0.0, 0.012, -0.01)
WRIST_FOVY = 70.0
# Of the light; the steeper it is, the closer a shadow lies below its thing, and the
# better one view tells how far away and how high the thing is.
LIGHT_TILT = 0.2


class Look(NamedTuple):
    """The part of SceneParams that only a camera notices."""

    geom_rgba: Array
    light_direction: Array
    light_diffuse: Array
    light_ambient: Array
    camera_pos: Array
    camera_mat: Array
    camera_fovy: Array


def look_at(eye: Array, point: Array, up: Array) -> Array:
    """Return a camera's rotation [3, 3]: looks along -z, x to the right, y up."""
    back = eye - point
    back = back / jnp.linalg.norm(back)
    right = jnp.cross(up, back)
    right = right / jnp.linalg.norm(right)
    return jnp.stack([right, jnp.cross(back, right), back], axis=1)


def _paint(rgba: Array, names: tuple[str, ...], color: Array, shown: Array) -> Array:
    index = jnp.asarray([model.ids().geom[name] for name in names])
    alpha = jnp.broadcast_to(jnp.asarray(shown, jnp.float32), (len(names),))
    values = jnp.broadcast_to(color, (len(names), 3))
    return rgba.at[index].set(jnp.concatenate([values, alpha[:, None]], axis=1))


def _colors(
    dice: Dice, geom_size: Array, color: Array, shape: Array, present: Array
) -> Array:
    """Return rgba [G, 4]."""

    def jitter(rgb: Array, amount: float) -> Array:
        noise = dice.uniform((3,), -amount, amount)
        return jnp.clip(rgb + noise, 0.03, 0.97)

    def choose(palette: np.ndarray) -> Array:
        return jnp.asarray(palette)[dice.integer(len(palette))]

    rgba = jnp.asarray(model.mujoco_model().geom_rgba, jnp.float32)
    table = jitter(choose(TABLE_RGB), 0.04)
    rgba = _paint(rgba, ("table",), table, True)
    for index in range(2):
        names = tuple(f"object{index}_{shape_name}" for shape_name in SHAPES)
        shown = (jnp.arange(len(SHAPES)) == shape[index]) & present[index]
        rgb = jitter(jnp.asarray(OBJECT_RGB)[color[index]], 0.05)
        rgba = _paint(rgba, names, rgb, shown)
    part = jitter(choose(PART_RGB), 0.04)
    base = jitter(choose(BASE_RGB), 0.04)
    handle = jnp.where(part.mean() > 0.5, 0.12, 0.93) * jnp.ones(3)
    for name in ("slide", "hinge"):
        rgba = _paint(rgba, (f"{name}_move", f"{name}_disc"), part, True)
        rgba = _paint(rgba, (f"{name}_base0", f"{name}_base1"), base, True)
        rgba = _paint(rgba, (f"{name}_handle",), handle, True)
    dark = table.mean() > 0.58
    plate = jitter(jnp.where(dark, PLATE_DARK, PLATE_LIGHT), 0.03)
    rgba = _paint(rgba, ("plate",), plate, True)
    return rgba.at[:, 3].multiply(jnp.where(geom_size[:, 0] > 0, 1.0, 0.0))


def _cameras(dice: Dice) -> tuple[Array, Array, Array]:
    """Return positions [V, 3], rotations [V, 3, 3] and vertical fields of view [V]."""
    shift = dice.uniform((4, 3), -1.0, 1.0)
    up = jnp.asarray([0.0, 0.0, 1.0])
    eye = jnp.asarray(EXTERNAL_EYE) + 0.02 * shift[0]
    point = jnp.asarray(EXTERNAL_LOOK) + 0.012 * shift[1]
    wrist_eye = jnp.asarray(WRIST_EYE) + 0.004 * shift[2]
    wrist_point = jnp.asarray(WRIST_LOOK) + 0.004 * shift[3]
    mats = jnp.stack([look_at(eye, point, up), look_at(wrist_eye, wrist_point, up)])
    zoom = dice.uniform((2,), -1.0, 1.0)
    fovy = jnp.asarray([EXTERNAL_FOVY, WRIST_FOVY]) + 1.5 * zoom
    return jnp.stack([eye, wrist_eye]), mats, fovy


def draw(
    dice: Dice, geom_size: Array, color: Array, shape: Array, present: Array
) -> Look:
    """Draw a world's look.

    Args:
      dice: where random numbers come from.
      geom_size: float32 [G, 3]; a geom of size 0 is not drawn.
      color: int32 [2], of the objects.
      shape: int32 [2], of the objects.
      present: bool [2].
    """
    tilt = dice.uniform((2,), -LIGHT_TILT, LIGHT_TILT)
    direction = jnp.stack([tilt[0], tilt[1], jnp.float32(-1.0)])
    pos, mat, fovy = _cameras(dice)
    return Look(
        geom_rgba=_colors(dice, geom_size, color, shape, present),
        light_direction=direction / jnp.linalg.norm(direction),
        light_diffuse=dice.uniform((), 0.4, 0.6),
        light_ambient=dice.uniform((), 0.4, 0.5),
        camera_pos=pos,
        camera_mat=mat,
        camera_fovy=fovy,
    )
