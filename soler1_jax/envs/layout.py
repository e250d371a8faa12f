"""Where things stand at the start of an episode: random places that keep apart.

Things are placed one after the other: fixture, gripper, named object, plate, other
object. Each takes the first of K random candidates that keeps its distance to what is
already there, or the best one.

Units: metres, radians. The external camera stands at -y.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.envs import fixtures
from soler1_jax.envs.dice import Dice
from soler1_jax.envs.tasks import TaskTable

Array = jax.Array

CANDIDATES = 24
TABLE_X = 0.17
OBJECT_Y = (-0.17, 0.06)
PUSH_ROOM = 0.10
GRIPPER_LOW = (-0.12, -0.13)
GRIPPER_HIGH = (0.12, 0.02)
YAW = 0.2

GRIPPER_CLEAR = 0.12
OBJECT_CLEAR = 0.105
PLATE_CLEAR = 0.14


class Pose(NamedTuple):
    """position float32 [3] and yaw float32 [] of a fixture's base."""

    position: Array
    yaw: Array


class Places(NamedTuple):
    """fixture; and float32 [2] in the table's plane: gripper, plate, and both objects."""

    fixture: Pose
    gripper: Array
    objects: Array
    plate: Array


def yaw_quat(yaw: Array) -> Array:
    """Return the quaternion float32 [4] (w x y z) of a rotation about z."""
    zero = jnp.zeros_like(yaw)
    return jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)])


def _rotate(axis: Array, angle: Array, vector: Array) -> Array:
    """Rotate a vector [3] about a unit axis [3] (Rodrigues' formula)."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    along = axis * jnp.dot(axis, vector) * (1 - cosine)
    return vector * cosine + jnp.cross(axis, vector) * sine + along


def _handle_xy(
    rows: tuple[fixtures.Fixture, fixtures.Fixture],
    slides: Array,
    pose: Pose,
    travel: Array,
) -> Array:
    """Return the handle's place [2] at a travel fraction."""
    slide, hinge = rows
    at = [row.range[0] + travel * (row.range[1] - row.range[0]) for row in rows]
    moved = slide.part_pos + slide.handle_pos + slide.axis * at[0]
    turned = hinge.part_pos + _rotate(hinge.axis, at[1], hinge.handle_pos)
    local = jnp.where(slides, moved, turned)
    turn = _rotate(jnp.asarray([0.0, 0.0, 1.0]), pose.yaw, local)
    return (pose.position + turn)[:2]


def _pick(dice: Dice, low: Array, high: Array, others: Array, clear: Array) -> Array:
    """Return the first candidate [2] that keeps `clear` [M] from `others` [M, 2]."""
    spots = dice.uniform((CANDIDATES, 2), low, high)
    apart = jnp.linalg.norm(spots[:, None] - others[None], axis=-1) - clear
    return spots[jnp.argmax(jnp.minimum(apart.min(axis=1), 0.0))]


def _object_box(row: TaskTable) -> tuple[Array, Array]:
    """Return the corners of the named object's region, with room for a push."""
    low = jnp.asarray([-TABLE_X, OBJECT_Y[0]])
    high = jnp.asarray([TABLE_X, OBJECT_Y[1]])
    room = PUSH_ROOM * row.push
    return low - jnp.minimum(room, 0.0), high - jnp.maximum(room, 0.0)


def draw(
    dice: Dice,
    row: TaskTable,
    rows: tuple[fixtures.Fixture, fixtures.Fixture],
    present: tuple[Array, Array],
    travel: Array,
) -> Places:
    """Draw places for a task.

    Args:
      dice: where random numbers come from.
      row: one row of `tasks.table()`.
      rows: the sliding and the hinged fixture, scaled; at most one is there.
      present: bool [] for each of them.
      travel: float32 [], the fixture's travel fraction at the start.
    """
    slides = present[0]
    there = present[0] | present[1]
    kind = jax.tree.map(
        lambda a, b: jnp.where(slides, a, b), *[(r.span, r.front, r.rear) for r in rows]
    )
    span, front, rear = kind
    x_limit = jnp.maximum(0.2 - span, 0.03)
    x = dice.uniform((), -1.0, 1.0) * x_limit
    y = front + dice.uniform() * (rear - front)
    yaw = dice.uniform((), -YAW, YAW)
    pose = Pose(jnp.stack([x, y, jnp.zeros_like(x)]), yaw)

    far = jnp.asarray([10.0, 10.0])
    base = jnp.where(there, pose.position[:2], far)
    handles = [
        jnp.where(there, _handle_xy(rows, slides, pose, t), far)
        for t in (travel, jnp.float32(0.0), jnp.float32(1.0))
    ]
    fixture = jnp.stack([base, *handles])
    fixture_clear = jnp.asarray([0.13, 0.1, 0.1, 0.1])

    gripper = _pick(
        dice,
        jnp.asarray(GRIPPER_LOW),
        jnp.asarray(GRIPPER_HIGH),
        handles[0][None],
        jnp.asarray([GRIPPER_CLEAR]),
    )
    low, high = _object_box(row)
    others = jnp.concatenate([fixture, gripper[None]])
    clear = jnp.append(fixture_clear, GRIPPER_CLEAR)
    first = _pick(dice, low, high, others, clear)

    low, high = _object_box(row._replace(push=jnp.zeros(2)))
    others = jnp.concatenate([fixture, first[None]])
    plate = _pick(dice, low, high, others, jnp.append(fixture_clear, PLATE_CLEAR))
    others = jnp.concatenate([fixture, first[None], plate[None]])
    clear = jnp.concatenate([fixture_clear, jnp.full(2, OBJECT_CLEAR)])
    second = _pick(dice, low, high, others, clear)
    return Places(pose, gripper, jnp.stack([first, second]), plate)
