"""Ground truth: progress is 0 at the start, 100 at success, and falls below 0.

States are made by hand (joint positions), without physics.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.envs import model, poses, tabletop, tasks

ENV = tabletop.Tabletop(tabletop.TabletopConfig(views=()))
RESET = jax.jit(jax.vmap(ENV.reset_task))


def _facts_at(state, qpos):
    data = poses.update(state.data.replace(qpos=qpos), state.info["scene"])
    return ENV.facts(state.replace(data=data))


FACTS = jax.jit(jax.vmap(_facts_at))
WORLDS = 4
GRIPPER = tuple(range(model.Q))[model.GRIPPER_Q]
FINGERS = tuple(range(model.Q))[model.FINGER_Q]
OBJECT = tuple(range(model.Q))[model.OBJECT_Q[0]]


def _start(name, seed=0):
    keys = jax.random.split(jax.random.key(seed), WORLDS)
    return RESET(keys, jnp.full(WORLDS, tasks.task_index(name)))


def _with(state, changes):
    """Return joint positions with some replaced: {index or indices: values}."""
    qpos = np.array(state.data.qpos)
    for where, value in changes.items():
        qpos[:, np.asarray(where)] = value
    return jnp.asarray(qpos)


def _object(state):
    return np.array(state.data.qpos)[:, OBJECT]


def _travel(state, name, fraction):
    index = model.ids().joint[name]
    low, high = np.array(state.info["scene"].jnt_range[:, index]).T
    return {index: low + fraction * (high - low)}


def _reach_done(state):
    facts = FACTS(state, state.data.qpos)
    return {GRIPPER: np.array(facts.target)}


def _touch_done(state):
    facts = FACTS(state, state.data.qpos)
    half = np.array(state.info["scene"].half[:, 0])
    above = np.array(facts.objects[:, 0])
    above[:, 2] += half + model.TIP_RADIUS
    above[:, 0] += np.array(facts.aperture) / 2 + model.TIP_RADIUS
    return {GRIPPER: above}


def _pushed(direction, distance):
    def make(state):
        place = _object(state)
        place[:, :2] += np.asarray(direction) * distance
        return {OBJECT: place}

    return make


def _lifted(height):
    def make(state):
        place = _object(state)
        place[:, 2] += height
        return {OBJECT: place}

    return make


def _placed(state):
    place = _object(state)
    place[:, :2] = np.array(FACTS(state, state.data.qpos).plate)[:, :2]
    return {OBJECT: place}


DONE = {
    "reach-green-ball": _reach_done,
    "touch-green-ball": _touch_done,
    "push-left-red-cube": _pushed((-1, 0), 0.11),
    "push-right-red-cube": _pushed((1, 0), 0.11),
    "push-away-red-cube": _pushed((0, 1), 0.11),
    "push-near-red-cube": _pushed((0, -1), 0.11),
    "lift-blue-cylinder": _lifted(0.09),
    "place-red-cube": _placed,
    "open-drawer": lambda state: _travel(state, "slide", 0.85),
    "close-drawer": lambda state: _travel(state, "slide", 0.15),
    "press-button": lambda state: _travel(state, "slide", 0.85),
    "slide-window-left": lambda state: _travel(state, "slide", 0.15),
    "open-door": lambda state: _travel(state, "hinge", 0.85),
    "close-lid": lambda state: _travel(state, "hinge", 0.15),
    "lever-up": lambda state: _travel(state, "hinge", 0.85),
    "turn-dial-right": lambda state: _travel(state, "hinge", 0.15),
}


@pytest.mark.parametrize("name", DONE)
def test_progress_is_zero_at_the_start_and_hundred_at_success(name):
    state = _start(name)
    before = FACTS(state, state.data.qpos)
    np.testing.assert_array_equal(before.progress, 0.0)
    assert not np.any(before.success)
    after = FACTS(state, _with(state, DONE[name](state)))
    np.testing.assert_array_equal(after.progress, 100.0)
    assert np.all(after.success)


def test_progress_is_negative_when_things_got_worse():
    state = _start("push-left-red-cube")
    wrong = FACTS(state, _with(state, _pushed((1, 0), 0.06)(state)))
    assert np.all(wrong.progress < -20) and np.all(wrong.act < 0)
    for name in ("lift-red-cube", "open-drawer", "reach-red-cube"):
        state = _start(name)
        away = np.array(state.data.qpos)[:, GRIPPER]
        target = np.array(FACTS(state, state.data.qpos).target)
        further = target + 1.6 * (away - target)
        facts = FACTS(state, _with(state, {GRIPPER: further}))
        assert np.all(facts.progress < -10), name


def test_approach_then_act_raises_progress_in_stages():
    state = _start("lift-red-cube")
    start = np.array(state.data.qpos)[:, GRIPPER]
    target = np.array(FACTS(state, state.data.qpos).target)
    values = []
    for share in (0.25, 0.5, 1.0):
        where = start + share * (target - start)
        facts = FACTS(state, _with(state, {GRIPPER: where}))
        values.append(np.array(facts.progress))
    half = np.array(state.info["scene"].geom_size)
    box = half[:, model.ids().geom["object0_cube"], 0][:, None]
    held = {GRIPPER: target, FINGERS: box, OBJECT[-1]: 0}
    facts = FACTS(state, _with(state, held))
    assert np.all(facts.grasped) and np.all(facts.contact)
    values.append(np.array(facts.progress))
    for low, high in itertools.pairwise(values):
        assert np.all(high > low)
    assert np.all(values[2] >= 29) and np.all(values[3] < 60)


def test_an_object_above_the_plate_has_not_been_placed():
    state = _start("place-red-cube")
    changes = _placed(state)
    changes[OBJECT][:, 2] = 0.05
    facts = FACTS(state, _with(state, changes))
    assert not np.any(facts.success)
    assert np.all(facts.progress < 100) and np.all(facts.progress > 50)


def test_touching_the_wrong_object_is_told_apart():
    state = _start("touch-green-ball", seed=3)
    facts = FACTS(state, state.data.qpos)
    other = np.array(facts.objects[:, 1])
    half = np.array(facts.object_size[:, 1])
    other[:, 0] += np.array(facts.aperture) / 2 + model.TIP_RADIUS
    other[:, 2] += half + model.TIP_RADIUS
    touched = FACTS(state, _with(state, {GRIPPER: other}))
    assert np.all(touched.other_contact) and not np.any(touched.contact)


def test_the_handle_moves_the_way_the_facts_say():
    for name in ("open-drawer", "slide-window-right", "open-door", "open-lid"):
        state = _start(name)
        part = "slide" if name in ("open-drawer", "slide-window-right") else "hinge"
        near = FACTS(state, _with(state, _travel(state, part, 0.50)))
        far = FACTS(state, _with(state, _travel(state, part, 0.51)))
        step = np.array(far.handle - near.handle)
        step /= np.linalg.norm(step, axis=-1, keepdims=True)
        np.testing.assert_allclose(step, near.handle_motion, atol=0.02)


DRIVEN = {
    "push-left-red-cube": _pushed((-1, 0), 0.01),
    "push-away-red-cube": _pushed((0, 1), 0.01),
    "close-drawer": lambda state: _travel(state, "slide", 0.45),
    "open-drawer": lambda state: _travel(state, "slide", 0.55),
    "slide-window-left": lambda state: _travel(state, "slide", 0.45),
    "press-button": lambda state: _travel(state, "slide", 0.55),
    "open-door": lambda state: _travel(state, "hinge", 0.55),
    "close-lid": lambda state: _travel(state, "hinge", 0.45),
}


@pytest.mark.parametrize("name", DRIVEN)
def test_a_thing_is_reached_at_the_side_from_which_it_is_driven(name):
    state = _start(name)
    for joint in ("slide", "hinge"):
        qpos = _with(state, _travel(state, joint, 0.5))
        state = state.replace(data=state.data.replace(qpos=qpos))
    before = FACTS(state, state.data.qpos)
    after = FACTS(state, _with(state, DRIVEN[name](state)))
    pushed = "push" in name
    thing = np.array(before.objects[:, 0] if pushed else before.handle)
    moved = np.array(after.objects[:, 0] if pushed else after.handle) - thing
    way = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    stand = np.array(before.target) - thing
    behind = -np.sum(stand * way, axis=-1)
    assert np.all(behind > model.TIP_RADIUS)
    np.testing.assert_allclose(behind, np.linalg.norm(stand, axis=-1), atol=2e-3)
    there = FACTS(state, _with(state, {GRIPPER: thing + stand}))
    ahead = FACTS(state, _with(state, {GRIPPER: thing - stand}))
    np.testing.assert_allclose(there.reach, 1.0)
    assert np.all(ahead.reach < there.reach)
