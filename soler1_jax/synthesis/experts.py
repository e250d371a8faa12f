"""Scripted experts for every task, as one closed-loop function inside jit.

`expert` looks at the facts of one world and says where the gripper should go and
whether it should close; it keeps no memory, so it recovers by itself from whatever
a mistake left behind. The same function also does harm on purpose: it goes for the
wrong object, or works against the task.

Metres; x right, y away from the external camera, z up. One world; vmap over worlds.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.envs.base import Facts
from soler1_jax.envs.model import TIP_RADIUS
from soler1_jax.envs.tasks import OBJECT_VERBS, VERBS, TaskTable

Array = jax.Array

# Room kept above a thing while the gripper travels to it, and how well it must be
# lined up before it goes down, closes, or pushes.
CLEARANCE_M = 0.035
ALIGNED_M = 0.02
CLOSED_M = 0.014
# Far enough ahead that the gripper moves at full speed.
AHEAD_M = 0.1

_UP = np.array([0.0, 0.0, 1.0], np.float32)


class Intent(NamedTuple):
    """Where an expert wants the gripper.

    Attributes:
      goal: float32 [3], the point to go to, metres.
      close: float32 [], +1 to close the fingers, -1 to open them.
    """

    goal: Array
    close: Array


class Plan(NamedTuple):
    """One task's row of the run-time table, as far as experts need it.

    Attributes:
      verb: int32 [], index into VERBS.
      push: float32 [2], unit direction of a push, 0 otherwise.
      direction: float32 [], way that a fixture must go, 0 for objects.
      wrong: bool [], go for the object that is not named.
      opposite: bool [], work against the task.
      drag: float32 [2], unit direction in which what must be lifted or placed is dragged
        along the table instead, when working against the task; 0 for not.
    """

    verb: Array
    push: Array
    direction: Array
    wrong: Array
    opposite: Array
    drag: Array


def plan_of(
    table: TaskTable,
    task: Array,
    wrong: Array | bool,
    opposite: Array | bool,
    drag: Array | tuple[float, float] = (0.0, 0.0),
) -> Plan:
    """The plan for task index `task` (int32 [])."""
    return Plan(
        verb=jnp.asarray(table.verb)[task],
        push=jnp.asarray(table.push)[task],
        direction=jnp.asarray(table.direction)[task],
        wrong=jnp.asarray(wrong),
        opposite=jnp.asarray(opposite),
        drag=jnp.asarray(drag),
    )


def expert(facts: Facts, plan: Plan) -> Intent:
    """What to do next in one world.

    Args:
      facts: the world now.
      plan: the task, and whether to do it wrongly.
    """
    second = plan.wrong & (facts.object_present[1] | (plan.direction == 0))
    which = jnp.where(second, 1, 0)
    thing, size = facts.objects[which], facts.object_size[which]
    sign = jnp.where(plan.opposite, -1.0, 1.0)
    held = jnp.where(plan.wrong, facts.other_grasped, facts.grasped)
    is_fixture = (plan.direction != 0) & ~plan.wrong
    intents = {
        "reach": _reach(facts, plan, thing),
        "touch": Intent(_apart(facts, thing, plan), jnp.array(1.0)),
        "push": _push(facts, thing, size, plan.push * sign),
        "lift": _lift(facts, thing, size, held, plan),
        "place": _place(facts, thing, size, held, sign),
        "drag": _drag(facts, thing, size, held, plan.drag),
        "drive": _drive(facts, plan, sign),
        "grip": _grip(facts, plan, held, sign),
    }
    upward = facts.handle_motion[2] * plan.direction * sign > 0.3
    fixture_kind = jnp.where(upward, _KINDS.index("grip"), _KINDS.index("drive"))
    kind = jnp.where(is_fixture, fixture_kind, jnp.asarray(_KIND_OF_VERB)[plan.verb])
    dragging = plan.opposite & jnp.any(plan.drag != 0)
    kind = jnp.where(dragging, _KINDS.index("drag"), kind)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(intents[k] for k in _KINDS))
    intent = jax.tree.map(lambda x: x[kind], stacked)
    done = facts.success & ~plan.wrong & ~plan.opposite
    lifted = done & (plan.verb == VERBS.index("lift"))
    return Intent(
        jnp.where(done, facts.gripper, intent.goal),
        jnp.where(lifted, 1.0, intent.close),
    )


_KINDS = ("reach", "touch", "push", "lift", "place", "drag", "drive", "grip")
# A wrong object in a fixture's scene is lifted.
_KIND_OF_VERB = np.array(
    [
        _KINDS.index(verb.split("_")[0] if verb in OBJECT_VERBS else "lift")
        for verb in VERBS
    ]
)


def _apart(facts: Facts, point: Array, plan: Plan) -> Array:
    """The point, or one that leads away from it if the plan is to work against."""
    away = facts.gripper + (facts.gripper - point)
    return jnp.where(plan.opposite, away.at[2].set(facts.gripper[2]), point)


def _reach(facts: Facts, plan: Plan, thing: Array) -> Intent:
    offset = facts.target - facts.objects[0]
    goal = jnp.where(plan.wrong, thing + offset, facts.target)
    return Intent(_apart(facts, goal, plan), jnp.array(-1.0))


def _over(facts: Facts, point: Array, top: Array) -> Array:
    """Where to go on the way to a point that must be come at from above.

    Args:
      facts: the world now.
      point: float32 [3].
      top: float32 [], height of whatever stands there.
    """
    flat = jnp.linalg.norm((point - facts.gripper)[:2])
    safe = jnp.maximum(top, point[2]) + CLEARANCE_M
    low = facts.gripper[2] < safe - 0.03
    high = jnp.where(low & (flat > 0.05), facts.gripper, point).at[2].set(safe)
    return jnp.where(flat < ALIGNED_M, point, high)


def _seize(facts: Facts, thing: Array, top: Array) -> Intent:
    """Comes from above with open fingers, and closes when it is there."""
    goal = _over(facts, thing, top)
    there = jnp.linalg.norm(thing - facts.gripper) < CLOSED_M
    return Intent(goal, jnp.where(there, 1.0, -1.0))


def _kept(facts: Facts, thing: Array, half: Array, held: Array) -> Array:
    """Whether a thing is held; a slip of one finger must not open the other."""
    near = jnp.linalg.norm(thing - facts.gripper) < 2.2 * ALIGNED_M
    touched = facts.contact | facts.other_contact
    return held | (near & touched & (facts.aperture < 2 * half + 0.004))


def _when(flag: Array, yes: Intent, no: Intent) -> Intent:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def _lift(facts: Facts, thing: Array, size: Array, held: Array, plan: Plan) -> Intent:
    seize = _seize(facts, thing, thing[2] + size)
    raised = Intent(facts.gripper + AHEAD_M * _UP, jnp.array(1.0))
    shun = Intent(_apart(facts, thing, plan), jnp.array(-1.0))
    kept = _kept(facts, thing, size, held)
    return _when(plan.opposite, shun, _when(kept, raised, seize))


def _drag(facts: Facts, thing: Array, size: Array, held: Array, way: Array) -> Intent:
    """Grips a thing and moves it along the table, which is neither lifting nor placing."""
    goal = facts.gripper + AHEAD_M * jnp.append(way, 0.0)
    dragged = Intent(goal.at[2].add(size - thing[2]), jnp.array(1.0))
    kept = _kept(facts, thing, size, held)
    return _when(kept, dragged, _seize(facts, thing, thing[2] + size))


def _place(facts: Facts, thing: Array, size: Array, held: Array, sign: Array) -> Intent:
    toward = (facts.plate - thing).at[2].set(0.0)
    flat = jnp.linalg.norm(toward)
    carry = facts.plate[2] + size + 0.03
    over = flat < ALIGNED_M
    height = jnp.where(over & (sign > 0), facts.plate[2] + size, carry)
    shift = jnp.where(sign > 0, toward, -AHEAD_M * toward / (flat + 1e-6))
    # lift before moving aside, or the object drags along the table
    shift = jnp.where(
        thing[2] < carry - 0.02, jnp.where(over, shift, 0.3 * shift), shift
    )
    goal = (facts.gripper + shift).at[2].add(height - thing[2])
    down = over & (thing[2] < facts.plate[2] + size + 0.008) & (sign > 0)
    carried = Intent(goal, jnp.where(down, -1.0, 1.0))
    there = down | (over & (thing[2] < carry - 0.01) & ~held & (sign > 0))
    leave = Intent(facts.gripper + AHEAD_M * _UP, jnp.array(-1.0))
    seize = _seize(facts, thing, thing[2] + size)
    kept = _kept(facts, thing, size, held)
    return _when(kept & ~down, carried, _when(there, leave, seize))


def _push(facts: Facts, thing: Array, size: Array, direction: Array) -> Intent:
    """Goes down behind the object with closed fingers, then drives it on."""
    ahead = jnp.append(direction, 0.0)
    side = jnp.array([-direction[1], direction[0], 0.0])
    offset = facts.gripper - thing
    behind = -jnp.dot(offset, ahead)
    lateral = jnp.dot(offset, side)
    wide = jnp.where(jnp.abs(direction[0]) > 0.5, 2 * TIP_RADIUS, TIP_RADIUS)
    stand = thing - ahead * (1.3 * size + wide + 0.015)
    low = facts.gripper[2] < thing[2] + 0.5 * size + TIP_RADIUS
    ready = (behind > 0.5 * size + wide) & (jnp.abs(lateral) < 0.6 * size) & low
    goal = facts.gripper + ahead * AHEAD_M - 1.5 * lateral * side
    goal = goal.at[2].set(thing[2])
    come = _over(facts, stand, thing[2] + size)
    return Intent(jnp.where(ready, goal, come), jnp.array(1.0))


def _drive(facts: Facts, plan: Plan, sign: Array) -> Intent:
    """Pushes the handle along the way it can move, with closed fingers."""
    way = facts.handle_motion * plan.direction * sign
    reach = jnp.dot(jnp.abs(way), facts.handle_size)
    reach += TIP_RADIUS * (1 + jnp.abs(way[0]))
    offset = facts.handle - facts.gripper
    behind = jnp.dot(offset, way)
    lateral = jnp.linalg.norm(offset - behind * way)
    ready = (behind > reach - CLOSED_M) & (lateral < ALIGNED_M)
    stand = facts.handle - way * (reach + 0.012)
    come = _over(facts, stand, facts.handle[2] + facts.handle_size[2])
    push = facts.handle + way * (AHEAD_M - reach)
    return Intent(jnp.where(ready, push, come), jnp.array(1.0))


def _grip(facts: Facts, plan: Plan, held: Array, sign: Array) -> Intent:
    """Grips the handle and carries it along its arc; for what must go up."""
    way = facts.handle_motion * plan.direction * sign
    kept = _kept(facts, facts.handle, facts.handle_size[0], held)
    pull = Intent(facts.handle + 0.6 * AHEAD_M * way, jnp.array(1.0))
    seize = _seize(facts, facts.handle, facts.handle[2] + facts.handle_size[2])
    return _when(kept, pull, seize)
