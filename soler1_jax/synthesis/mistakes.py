"""What goes wrong in a run, and when: schedules of modes by level.

The paper's recipe (section 3.2): from a random state of an expert's run, some random
actions, then a straight line to a later expert state, then on, or not. Levels go from
0, an expert, to 6, random throughout; the distributions are ours, the paper's were not
published. A schedule is drawn per world inside jit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

LEVELS = (
    "expert",
    "noisy",
    "one mistake",
    "two mistakes",
    "failing",
    "going wrong",
    "random",
)
# The level of a run that is told as if another task with the same noun had been set.
OTHER_TASK = len(LEVELS)
# The level of a run of a learned policy.
POLICY = len(LEVELS) + 1
MODES = (
    "expert",  # do the task
    "random",  # uniform actions, each held for a few steps
    "cut",  # straight to where the expert is later, over or through what is between
    "freeze",  # stand still
    "back",  # undo: carry on to where the gripper began, fingers as they are
    "drop",  # open the fingers and rise
    "wrong",  # do the task with the object that is not named
    "hover",  # stop a few centimetres short
    "opposite",  # work against the task, or, of what is grasped, beside it: drag it
)
_MODE = {name: index for index, name in enumerate(MODES)}
SEGMENTS = 6
_FAILING = LEVELS.index("failing")

# Of runs of a task in which something is grasped, how many drag it along the table when
# something goes wrong. Policies found that a cube that is gripped and drawn away from the
# camera was praised as lifted, and one that is drawn near it as placed.
_DRAGGED_SHARE = 0.5

# What undoes the act is frequent: it alone shows how a thing moves the other way.
_SLIPS = ("random", "random", "drop", "back", "hover", "wrong", "opposite", "opposite")
_FAILURES = ("freeze", "back", "drop", "hover", "random", "wrong", *3 * ("opposite",))
_WRONG = (*3 * ("wrong",), *3 * ("opposite",), "hover")


class Schedule(NamedTuple):
    """One world's script.

    Attributes:
      start: float32 [SEGMENTS], ascending, control step at which each segment begins.
      mode: int32 [SEGMENTS], index into MODES.
      speed: float32 [], share of the fastest motion.
      care: float32 [], factor on the speed while the named thing is touched.
      limit: float32 [], fraction of the act after which `failure` takes over.
      failure: int32 [], index into MODES.
      noise: float32 [], standard deviation added to each component of an action.
      offset: float32 [3], where "hover" stops, metres from the target.
      drag: float32 [2], unit direction in which "opposite" drags what it grasps, or 0
        for runs that do not.
    """

    start: Array
    mode: Array
    speed: Array
    care: Array
    limit: Array
    failure: Array
    noise: Array
    offset: Array
    drag: Array


def draw(
    key: Array, level: Array, steps: int, grasps: Array | bool = False
) -> Schedule:
    """A schedule for one world.

    Args:
      key: a PRNG key.
      level: int32 [], index into LEVELS.
      steps: control steps of the episode.
      grasps: bool [], whether the task is to lift or to place something.
    """
    keys = jax.random.split(key, 12)
    unit = jax.random.uniform(keys[0], (8,))
    drag = _drag(keys[9], grasps)

    def pick(key: Array, names: Sequence[str]) -> Array:
        return jnp.where(jnp.any(drag != 0), _MODE["opposite"], _pick(key, names))

    slips = [pick(k, _SLIPS) for k in keys[1:3]]
    failure, wrong = pick(keys[3], _FAILURES), pick(keys[4], _WRONG)
    # failures at a moment would mostly be early ones; others wait for the act
    by_act = unit[0] < 0.6
    late = 0.25 + 0.5 * unit[1]
    recovers = jnp.where(unit[2] < 0.5, _MODE["expert"], wrong)
    first = 0.45 * unit[3]
    after = first + 0.06 + 0.18 * unit[4]
    second = jnp.minimum(after + 0.12 + 0.25 * unit[5], 0.85)
    again = second + 0.06 + 0.15 * unit[6]
    cut = 0.1
    rows = (
        ((0.0, "expert"),),
        ((0.0, "expert"),),
        ((0.0, "expert"), (first, slips[0]), (after, "cut"), (after + cut, "expert")),
        (
            (0.0, "expert"),
            (first * 0.6, slips[0]),
            (after * 0.8, "cut"),
            (after * 0.8 + cut, "expert"),
            (second, slips[1]),
            (again, "expert"),
        ),
        ((0.0, "expert"), (jnp.where(by_act, jnp.inf, 0.1 + 0.7 * unit[7]), failure)),
        ((0.0, wrong), (late, recovers)),
        ((0.0, "random"),),
    )
    starts, modes = zip(*(_row(row) for row in rows), strict=True)
    slow = jax.random.uniform(keys[5], minval=0.5, maxval=1.0)
    fast = jax.random.uniform(keys[6], minval=0.8, maxval=1.0)
    return Schedule(
        start=jnp.stack(starts)[level] * steps,
        mode=jnp.stack(modes)[level],
        speed=jnp.where(level == 0, fast, slow),
        care=jax.random.uniform(
            keys[8], minval=jnp.where(level == 0, 0.6, 0.15), maxval=1.0
        ),
        limit=jnp.where((level == _FAILING) & by_act, _limit(unit[7]), jnp.inf),
        failure=failure,
        noise=jnp.array([0.05, 0.25, 0.15, 0.15, 0.15, 0.15, 0.0])[level],
        offset=_offset(keys[7]),
        drag=drag,
    )


def _limit(unit: Array) -> Array:
    """Anywhere before the act is complete, or, one time in ten, just then."""
    return jnp.minimum(1.1 * unit, 0.999)


def mode_at(schedule: Schedule, step: Array, tripped: Array) -> Array:
    """Index into MODES at a control step.

    Args:
      schedule: the world's script.
      step: int32 [].
      tripped: bool [], whether the act has passed `limit` at any step so far.
    """
    segment = jnp.sum(schedule.start <= step) - 1
    return jnp.where(tripped, schedule.failure, schedule.mode[segment])


def _pick(key: Array, names: Sequence[str]) -> Array:
    choices = jnp.array([_MODE[name] for name in names])
    return jax.random.choice(key, choices)


def _row(row: Sequence[tuple[Array | float, Array | str]]) -> tuple[Array, Array]:
    """Pads a level's segments; those after its last one never begin."""
    starts = [start for start, _ in row] + [jnp.inf] * (SEGMENTS - len(row))
    modes = [_MODE[m] if isinstance(m, str) else m for _, m in row]
    modes += [0] * (SEGMENTS - len(row))
    return jnp.stack([jnp.asarray(s, jnp.float32) for s in starts]), jnp.stack(
        [jnp.asarray(m, jnp.int32) for m in modes]
    )


def _drag(key: Array, grasps: Array | bool) -> Array:
    share, turn = jax.random.uniform(key, (2,))
    direction = jnp.stack([jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)])
    return jnp.where(grasps & (share < _DRAGGED_SHARE), direction, 0.0)


def _offset(key: Array) -> Array:
    """A point 4 to 9 cm off, never below the target."""
    direction = jax.random.normal(key, (3,))
    direction = direction.at[2].set(jnp.abs(direction[2]))
    length = 0.04 + 0.05 * jax.random.uniform(jax.random.fold_in(key, 1))
    return length * direction / jnp.linalg.norm(direction)
