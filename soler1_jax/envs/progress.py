"""Ground truth of a world: geometry, contacts, staged progress and success.

Everything is geometric and measured from the simulator's poses. Progress goes through
two or three stages (paper section 3.2): *reach* the thing (what is pushed, at the side
from which it is driven), *grasp* it where the task needs it, *act* on it. With
fractions in [-1, 1], all 0 at the start,

    progress = 100 * (w_r * max(reach, act) + w_g * max(grasp, act) + w_a * act)

so that the act alone is enough, an approach is rewarded, and undoing things costs. The
weights sum to 1: progress is 100 exactly when the act is complete, which is success.

Privileged: neither policies nor rewarders may see what this module computes, the
`oracle` rewarder excepted. Units: metres, radians, percent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.envs import model
from soler1_jax.envs.base import Facts
from soler1_jax.envs.engine import mjx
from soler1_jax.envs.scene import SceneParams
from soler1_jax.envs.tasks import FAMILIES, FIXTURES, TaskTable

Array = jax.Array

HOVER = 0.07
PUSH_DISTANCE = 0.10
LIFT_HEIGHT = 0.08
PLATE_TOLERANCE = 0.035
RESTING = 0.015
TOUCHING = 0.003
# Share of the travel at which a fixture counts as moved all the way.
TRAVEL_DONE = 0.8


class _Stages(NamedTuple):
    """Per family: the weights of the stages and the distance that counts as reached."""

    reach: float
    grasp: float
    act: float
    near: float


_STAGES = {
    "reach": _Stages(0.0, 0.0, 1.0, 0.04),
    "touch": _Stages(0.0, 0.0, 1.0, 0.03),
    "push": _Stages(0.35, 0.0, 0.65, 0.04),
    "lift": _Stages(0.3, 0.15, 0.55, 0.02),
    "place": _Stages(0.3, 0.1, 0.6, 0.02),
    **{name: _Stages(0.35, 0.0, 0.65, 0.03) for name in FIXTURES},
}
_STAGE_TABLE = _Stages(
    *(
        np.asarray(column, np.float32)
        for column in zip(*(_STAGES[name] for name in FAMILIES), strict=True)
    )
)
_FAMILY = {name: index for index, name in enumerate(FAMILIES)}


class Start(NamedTuple):
    """What progress is measured from.

    Attributes:
      distance: float32 [], gripper to target, metres.
      gap: float32 [], finger tip to the named thing, metres.
      travel: float32 [], of the fixture, in [0, 1].
      center: float32 [3], of the named object, metres.
      plate_distance: float32 [], named object to plate in the table's plane, metres.
    """

    distance: Array
    gap: Array
    travel: Array
    center: Array
    plate_distance: Array


class _Geometry(NamedTuple):
    """Facts that need no start: see `Facts` for most; named is an index of `boxes`."""

    gripper: Array
    aperture: Array
    objects: Array
    object_yaw: Array
    plate: Array
    slide: Array
    hinge: Array
    handle: Array
    handle_motion: Array
    handle_size: Array
    target: Array
    distance: Array
    gaps: Array
    grasped: Array
    named: Array


def _fraction(value: Array, bounds: Array) -> Array:
    return jnp.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0)


def _tips(data: mjx.Data) -> Array:
    geom = model.ids().geom
    return data.geom_xpos[jnp.asarray([geom["left_tip"], geom["right_tip"]])]


def _box_gaps(data: mjx.Data, scene: SceneParams, tips: Array) -> tuple[Array, Array]:
    """Return the gaps tip-surface [2, 4] and "held between the tips" bool [4].

    Boxes: both objects, the sliding and the hinged fixture's handle.
    """
    geom = model.ids().geom
    names = ("object0_cube", "object1_cube", "slide_handle", "hinge_handle")
    index = jnp.asarray([geom[name] for name in names])
    center, half = data.geom_xpos[index], scene.geom_size[index]
    mat = data.geom_xmat[index].reshape(-1, 3, 3)
    local = jnp.einsum("bji,tbj->tbi", mat, tips[:, None] - center[None])
    outside = jnp.abs(local) - half[None]
    far = jnp.linalg.norm(jnp.maximum(outside, 0.0), axis=-1)
    gaps = far + jnp.minimum(outside.max(axis=-1), 0.0) - model.TIP_RADIUS
    opposite = jnp.sum(local[0] * local[1], axis=-1) < 0
    return gaps, opposite & (gaps < TOUCHING).all(axis=0)


class _Handle(NamedTuple):
    """Centre, motion per travel (unit vector), half extents and axes of a handle."""

    center: Array
    motion: Array
    size: Array
    mat: Array


def _handle(data: mjx.Data, scene: SceneParams) -> _Handle:
    ids = model.ids()
    slides = scene.slide_kind > 0
    index = jnp.where(slides, ids.geom["slide_handle"], ids.geom["hinge_handle"])
    center = data.geom_xpos[index]
    along = data.xaxis[ids.joint["slide"]]
    joint = ids.joint["hinge"]
    around = jnp.cross(data.xaxis[joint], center - data.xanchor[joint])
    around = around / (jnp.linalg.norm(around) + 1e-9)
    motion = jnp.where(slides, along, around)
    mat = data.geom_xmat[index].reshape(3, 3)
    return _Handle(center, motion, scene.geom_size[index], mat)


def _target(row: TaskTable, center: Array, half: Array, handle: _Handle) -> Array:
    """Return the point the gripper must reach [3].

    What is to be moved is reached at the side from which it is driven.
    """
    is_fixture = row.fixture >= 0
    lift = jnp.where(row.family == _FAMILY["reach"], HOVER, 0.0)
    above = center + lift * jnp.asarray([0.0, 0.0, 1.0])
    push = jnp.append(row.push, 0.0)
    way = jnp.where(is_fixture, handle.motion * row.direction, push)
    local = jnp.where(is_fixture, handle.mat.T @ way, push)
    size = jnp.where(is_fixture, handle.size, half)
    # Closed fingers are two tips wide in x.
    room = jnp.dot(jnp.abs(local), size) + model.TIP_RADIUS * (1 + jnp.abs(way[0]))
    drives = jnp.any(way != 0)
    return jnp.where(is_fixture, handle.center, above) - drives * room * way


def _geometry(data: mjx.Data, scene: SceneParams, row: TaskTable) -> _Geometry:
    ids = model.ids()
    tips = _tips(data)
    gripper = data.xpos[ids.body["gripper"]]
    objects = jnp.stack([data.xpos[ids.body[f"object{i}"]] for i in range(2)])
    plate = data.xpos[ids.body["plate"]] + jnp.asarray([0.0, 0.0, 0.002])
    gaps, held = _box_gaps(data, scene, tips)
    handle = _handle(data, scene)
    target = _target(row, objects[0], scene.half[0], handle)
    joints = scene.jnt_range
    return _Geometry(
        gripper=gripper,
        aperture=data.qpos[model.FINGER_Q].sum(),
        objects=objects,
        object_yaw=jnp.stack([data.qpos[q.stop - 1] for q in model.OBJECT_Q]),
        plate=plate,
        slide=_fraction(data.qpos[model.SLIDE_Q], joints[ids.joint["slide"]]),
        hinge=_fraction(data.qpos[model.HINGE_Q], joints[ids.joint["hinge"]]),
        handle=handle.center,
        handle_motion=handle.motion,
        handle_size=handle.size,
        target=target,
        distance=jnp.linalg.norm(gripper - target),
        gaps=gaps.min(axis=0),
        grasped=held,
        named=jnp.where(row.fixture < 0, 0, jnp.where(scene.slide_kind > 0, 2, 3)),
    )


def _travel(geometry: _Geometry, scene: SceneParams) -> Array:
    return jnp.where(scene.slide_kind > 0, geometry.slide, geometry.hinge)


def _plate_distance(geometry: _Geometry) -> Array:
    return jnp.linalg.norm((geometry.objects[0] - geometry.plate)[:2])


def begin(data: mjx.Data, scene: SceneParams, row: TaskTable) -> Start:
    """Return what later progress is measured from, at the first frame.

    Args:
      data: after kinematics.
      scene: the world's parameters.
      row: one row of `tasks.table()`.
    """
    geometry = _geometry(data, scene, row)
    return Start(
        distance=geometry.distance,
        gap=geometry.gaps[geometry.named],
        travel=_travel(geometry, scene),
        center=geometry.objects[0],
        plate_distance=_plate_distance(geometry),
    )


def _covered(now: Array, start: Array, near: Array | float) -> Array:
    """Return the share of the way from `start` to `near` that `now` has covered."""
    return jnp.clip((start - now) / jnp.maximum(start - near, 1e-3), -1.0, 1.0)


def _both(stage: Array, act: Array) -> Array:
    """Return a stage's fraction, completed by an act that goes on without it."""
    return 1.0 - (1.0 - stage) * (1.0 - jnp.maximum(act, 0.0))


def _act(
    geometry: _Geometry, scene: SceneParams, row: TaskTable, start: Start, reach: Array
) -> Array:
    """Return the fraction of the task's own motion that is done, in [-1, 1]."""
    gap = geometry.gaps[geometry.named]
    moved = geometry.objects[0] - start.center
    touch = _covered(gap, start.gap, TOUCHING)
    push = jnp.dot(moved[:2], row.push) / PUSH_DISTANCE
    lift = moved[2] / LIFT_HEIGHT
    carried = _covered(_plate_distance(geometry), start.plate_distance, PLATE_TOLERANCE)
    # An object above the plate has arrived once it rests.
    place = jnp.where(moved[2] < RESTING, carried, jnp.minimum(carried, 0.9))
    goal = jnp.where(row.direction > 0, TRAVEL_DONE, 1 - TRAVEL_DONE)
    turned = (_travel(geometry, scene) - start.travel) / (goal - start.travel)
    acts = {"reach": reach, "touch": touch, "push": push, "lift": lift, "place": place}
    act = turned
    for name, value in acts.items():
        act = jnp.where(row.family == _FAMILY[name], value, act)
    return jnp.clip(act, -1.0, 1.0)


def measure(data: mjx.Data, scene: SceneParams, row: TaskTable, start: Start) -> Facts:
    """Return all facts of a world.

    Args:
      data: after kinematics.
      scene: the world's parameters.
      row: one row of `tasks.table()`.
      start: see `begin`.
    """
    geometry = _geometry(data, scene, row)
    stages = jax.tree.map(lambda column: jnp.asarray(column)[row.family], _STAGE_TABLE)
    reach = _covered(geometry.distance, start.distance, stages.near)
    act = _act(geometry, scene, row, start, reach)
    grasped = geometry.grasped[geometry.named]
    grasp = grasped.astype(jnp.float32)
    share = (
        stages.reach * _both(reach, act)
        + stages.grasp * _both(grasp, act)
        + stages.act * act
    )
    success = act >= 1.0
    # Rounding hides how a compiler orders sums, so that the start is 0 exactly.
    percent = jnp.round(1e4 * share) / 100.0
    progress = jnp.where(success, 100.0, jnp.clip(percent, -100.0, 99.9))
    touched = geometry.gaps < TOUCHING
    other = (jnp.arange(4) < 2) & (jnp.arange(4) != geometry.named)
    return Facts(
        gripper=geometry.gripper,
        aperture=geometry.aperture,
        objects=geometry.objects,
        object_yaw=geometry.object_yaw,
        object_size=scene.half,
        object_present=scene.present,
        plate=geometry.plate,
        slide=geometry.slide,
        hinge=geometry.hinge,
        handle=geometry.handle,
        handle_motion=geometry.handle_motion,
        handle_size=geometry.handle_size,
        target=geometry.target,
        distance=geometry.distance,
        gap=geometry.gaps[geometry.named],
        reach=reach,
        act=act,
        contact=touched[geometry.named],
        grasped=grasped,
        other_contact=(touched & other).any(),
        other_grasped=(geometry.grasped & other).any(),
        progress=progress,
        success=success,
    )
