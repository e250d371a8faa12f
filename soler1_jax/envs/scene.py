"""What differs between worlds: `SceneParams`, and how one is drawn for a task.

The parameters replace fields of the one physics model (`apply`), so worlds differ in
poses, sizes, colours, joints, light and cameras without another compilation.

Dimension letters: G geoms, N bodies, J joints, V views (external, wrist). Units: metres,
radians.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from soler1_jax.envs import fixtures, layout, model, paint
from soler1_jax.envs.dice import Dice
from soler1_jax.envs.engine import mjx
from soler1_jax.envs.tasks import COLORS, SHAPES, VERBS, TaskTable

Array = jax.Array

HIDDEN_HEIGHT = -1.0
OBJECT_HALF = (0.026, 0.033)
# The collision box of a round object is a little smaller than its outline.
BOX_SHARE = (1.0, 0.88, 0.9)
# Half of the fixtures start within so much of the undone end of their travel, the other
# half near the middle: there the picture does not tell which way the task goes.
END_SHARE = 0.1
MIDDLE_SHARE = (0.35, 0.65)

_PLACE = VERBS.index("place")


@flax.struct.dataclass
class SceneParams:
    """One world's share of the model, and what it stands for.

    Attributes:
      body_pos: float32 [N, 3].
      body_quat: float32 [N, 4].
      geom_pos: float32 [G, 3].
      geom_quat: float32 [G, 4].
      geom_size: float32 [G, 3].
      geom_rgba: float32 [G, 4]; alpha 0 means that the geom is not drawn.
      jnt_axis: float32 [J, 3].
      jnt_range: float32 [J, 2].
      jnt_stiffness: float32 [J].
      dof_damping: float32 [J] (every joint has one degree of freedom).
      light_direction: float32 [3], unit vector along which the light travels.
      light_diffuse: float32 [].
      light_ambient: float32 [].
      camera_pos: float32 [V, 3], in the world (external), in the gripper (wrist).
      camera_mat: float32 [V, 3, 3], columns are the camera's axes; it looks along -z.
      camera_fovy: float32 [V], degrees.
      color: int32 [2], colour of each object, index into COLORS.
      shape: int32 [2], index into SHAPES.
      half: float32 [2], half-size of each object.
      present: bool [2], whether each object is there.
      plate_present: bool [].
      slide_kind: int32 [], row of `fixtures.SLIDES`, 0 = absent.
      hinge_kind: int32 [], row of `fixtures.HINGES`, 0 = absent.
      fixture_scale: float32 [], size of the fixture over its nominal size.
    """

    body_pos: Array
    body_quat: Array
    geom_pos: Array
    geom_quat: Array
    geom_size: Array
    geom_rgba: Array
    jnt_axis: Array
    jnt_range: Array
    jnt_stiffness: Array
    dof_damping: Array
    light_direction: Array
    light_diffuse: Array
    light_ambient: Array
    camera_pos: Array
    camera_mat: Array
    camera_fovy: Array
    color: Array
    shape: Array
    half: Array
    present: Array
    plate_present: Array
    slide_kind: Array
    hinge_kind: Array
    fixture_scale: Array


_MODEL_FIELDS = (
    "body_pos",
    "body_quat",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "jnt_axis",
    "jnt_range",
    "jnt_stiffness",
    "dof_damping",
)


def apply(physics: mjx.Model, scene: SceneParams) -> mjx.Model:
    """Return the model of one world."""
    return physics.replace(**{name: getattr(scene, name) for name in _MODEL_FIELDS})


class _Cast(NamedTuple):
    """Who is in a scene, before anything has a place."""

    color: Array
    shape: Array
    half: Array
    present: Array
    plate_present: Array
    slide_kind: Array
    hinge_kind: Array
    travel: Array
    scale: Array


def _draw_objects(dice: Dice, row: TaskTable) -> tuple[Array, Array]:
    """Draw colours and shapes [2]; half of the distractors share one of the two."""
    color = dice.integer(len(COLORS), (2,))
    shape = dice.integer(len(SHAPES), (2,))
    color = color.at[0].set(jnp.where(row.color >= 0, row.color, color[0]))
    shape = shape.at[0].set(jnp.where(row.shape >= 0, row.shape, shape[0]))
    kind = dice.uniform()
    color = color.at[1].set(jnp.where(kind < 0.25, color[0], color[1]))
    same_shape = (kind >= 0.25) & (kind < 0.5)
    shape = shape.at[1].set(jnp.where(same_shape, shape[0], shape[1]))
    same = (color[0] == color[1]) & (shape[0] == shape[1])
    other = (shape[1] + 1 + dice.integer(len(SHAPES) - 1)) % len(SHAPES)
    return color, shape.at[1].set(jnp.where(same, other, shape[1]))


def _draw_cast(dice: Dice, row: TaskTable) -> _Cast:
    color, shape = _draw_objects(dice, row)
    chance = dice.uniform((4,))
    named_object = row.color >= 0
    present = jnp.stack([named_object | (chance[0] < 0.7), chance[1] < 0.75])
    # A pushed-away object would end up inside a fixture at the back.
    distractor = (chance[3] < 0.4) & (row.push[1] <= 0)
    drawn = dice.integer(len(fixtures.SLIDE_ROW))
    kind = jnp.where(row.fixture >= 0, row.fixture, drawn)
    there = (row.fixture >= 0) | distractor
    slide_kind = jnp.where(there, jnp.asarray(fixtures.SLIDE_ROW)[kind], 0)
    end = dice.uniform(high=END_SHARE)
    end = jnp.where(row.direction > 0, end, 1 - end)
    middle = dice.uniform((), *MIDDLE_SHARE)
    travel = jnp.where(dice.uniform() < 0.5, end, middle)
    travel = jnp.where(row.fixture >= 0, travel, dice.uniform())
    # A button that nobody presses is up.
    button = slide_kind == fixtures.SLIDES.index("button")
    low, high = OBJECT_HALF
    return _Cast(
        color=color,
        shape=shape,
        half=dice.uniform((2,), low, high),
        present=present,
        plate_present=(row.verb == _PLACE) | (chance[2] < 0.35),
        slide_kind=slide_kind,
        hinge_kind=jnp.where(there, jnp.asarray(fixtures.HINGE_ROW)[kind], 0),
        travel=jnp.where(button, 0.0, travel),
        scale=dice.uniform((), 0.93, 1.05),
    )


def _row(table: fixtures.Fixture, kind: Array, scale: Array) -> fixtures.Fixture:
    """Take one kind of fixture at run time, with its lengths scaled."""
    taken = jax.tree.map(lambda column: jnp.asarray(column)[kind], table)
    lengths = {
        name: getattr(taken, name) * scale
        for name in taken._fields
        if name.endswith(("_pos", "_size"))
    }
    return taken._replace(**lengths)


def _set_fixture(
    params: dict[str, Array], name: str, row: fixtures.Fixture, pose: layout.Pose
) -> dict[str, Array]:
    """Write one fixture's geometry, joint and pose into the model's fields."""
    ids = model.ids()
    joint = ids.joint[name]
    out = dict(params)
    base, part = ids.body[f"{name}_base"], ids.body[f"{name}_part"]
    out["body_pos"] = (
        out["body_pos"].at[base].set(pose.position).at[part].set(row.part_pos)
    )
    out["body_quat"] = out["body_quat"].at[base].set(layout.yaw_quat(pose.yaw))
    for geom in ("base0", "base1", "move", "disc", "handle"):
        index = ids.geom[f"{name}_{geom}"]
        out["geom_pos"] = out["geom_pos"].at[index].set(getattr(row, f"{geom}_pos"))
        out["geom_size"] = out["geom_size"].at[index].set(getattr(row, f"{geom}_size"))
    disc = ids.geom[f"{name}_disc"]
    out["geom_quat"] = out["geom_quat"].at[disc].set(row.disc_quat)
    out["jnt_axis"] = out["jnt_axis"].at[joint].set(row.axis)
    out["jnt_range"] = out["jnt_range"].at[joint].set(row.range)
    out["jnt_stiffness"] = out["jnt_stiffness"].at[joint].set(row.stiffness)
    out["dof_damping"] = out["dof_damping"].at[joint].set(row.damping)
    return out


def _set_objects(params: dict[str, Array], cast: _Cast) -> dict[str, Array]:
    ids = model.ids()
    out = dict(params)
    for index in range(2):
        half = cast.half[index]
        height = jnp.where(cast.present[index], half, HIDDEN_HEIGHT)
        body = ids.body[f"object{index}"]
        out["body_pos"] = out["body_pos"].at[body].set(jnp.stack([0.0, 0.0, height]))
        side = half * jnp.asarray(BOX_SHARE)[cast.shape[index]]
        cube, ball, cylinder = (ids.geom[f"object{index}_{shape}"] for shape in SHAPES)
        size = out["geom_size"]
        size = size.at[cube].set(jnp.stack([side, side, half]))
        size = size.at[ball, 0].set(half)
        out["geom_size"] = size.at[cylinder, :2].set(half)
    return out


def _start_qpos(dice: Dice, cast: _Cast, places: layout.Places, rows: tuple) -> Array:
    """Return the joint positions [Q] of a scene's start."""
    height = dice.uniform((), 0.15, 0.2)
    yaw = dice.uniform((2,), -0.4, 0.4)
    opening = dice.uniform((), 0.75, 0.98) * model.FINGER_TRAVEL
    slide, hinge = (
        row.range[0] + cast.travel * (row.range[1] - row.range[0]) for row in rows
    )
    fields = [*places.gripper, height, opening, opening]
    for index in range(2):
        fields += [*places.objects[index], jnp.zeros(()), yaw[index]]
    return jnp.stack([*fields, slide, hinge])


def draw(key: Array, row: TaskTable) -> tuple[SceneParams, Array]:
    """Draw a scene for a task.

    Args:
      key: a PRNG key.
      row: one row of `tasks.table()`, scalars.

    Returns:
      The parameters of the world and its joint positions, float32 [Q].
    """
    dice = Dice(key, 512)
    physics = model.mujoco_model()
    cast = _draw_cast(dice, row)
    slide_row = _row(fixtures.SLIDE_TABLE, cast.slide_kind, cast.scale)
    hinge_row = _row(fixtures.HINGE_TABLE, cast.hinge_kind, cast.scale)
    rows = (slide_row, hinge_row)
    present = (cast.slide_kind > 0, cast.hinge_kind > 0)
    places = layout.draw(dice, row, rows, present, cast.travel)
    params = {
        name: jnp.asarray(getattr(physics, name), jnp.float32) for name in _MODEL_FIELDS
    }
    params = _set_objects(params, cast)
    for name, fixture, there in zip(("slide", "hinge"), rows, present, strict=True):
        hidden = jnp.asarray([0.0, 0.0, HIDDEN_HEIGHT])
        position = jnp.where(there, places.fixture.position, hidden)
        pose = layout.Pose(position, places.fixture.yaw)
        params = _set_fixture(params, name, fixture, pose)
    plate = model.ids().body["plate"]
    height = jnp.where(cast.plate_present, 0.002, HIDDEN_HEIGHT)
    params["body_pos"] = (
        params["body_pos"].at[plate].set(jnp.stack([*places.plate, height]))
    )
    look = paint.draw(dice, params["geom_size"], cast.color, cast.shape, cast.present)
    scene = SceneParams(
        **params,
        **look._asdict(),
        color=cast.color,
        shape=cast.shape,
        half=cast.half,
        present=cast.present,
        plate_present=cast.plate_present,
        slide_kind=cast.slide_kind,
        hinge_kind=cast.hinge_kind,
        fixture_scale=cast.scale,
    )
    return scene, _start_qpos(dice, cast, places, rows)
