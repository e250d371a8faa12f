"""The environment's step: one compile for all tasks, honest starts, a working grip."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.envs import model, tabletop, tasks

ENV = tabletop.Tabletop(tabletop.TabletopConfig(views=()))
# One size for all tests: two programs are compiled.
COUNT = len(tasks.TASKS)
RESET = jax.jit(jax.vmap(ENV.reset_task))
STEP = jax.jit(jax.vmap(ENV.step))


def _reset(seed, indices=None):
    keys = jax.random.split(jax.random.key(seed), COUNT)
    return RESET(keys, jnp.arange(COUNT) if indices is None else indices)


def _drive(state, actions):
    """Step through actions [K, 4] or [K, COUNT, 4]; return the last state, metrics."""
    metrics = []
    for action in actions:
        state = STEP(state, jnp.broadcast_to(jnp.asarray(action), (COUNT, 4)))
        metrics.append(jax.tree.map(np.asarray, state.metrics))
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *metrics)


def test_no_task_is_done_at_the_start():
    for seed in range(4):
        state = _reset(seed)
        np.testing.assert_array_equal(state.metrics["progress"], 0.0)
        np.testing.assert_array_equal(state.metrics["success"], 0.0)
        np.testing.assert_array_equal(state.metrics["contact"], 0.0)


def test_random_actions_seldom_succeed_and_progress_stays_in_bounds():
    won = collections.defaultdict(list)
    lowest = 0.0
    for seed in range(2):
        actions = np.random.default_rng(seed).uniform(-1, 1, (40, COUNT, 4))
        state, metrics = _drive(_reset(seed), actions.astype(np.float32))
        assert np.all(np.isfinite(metrics["progress"]))
        assert np.abs(metrics["progress"]).max() <= 100.0
        np.testing.assert_array_equal(
            metrics["progress"] == 100.0, metrics["success"] == 1.0
        )
        lowest = min(lowest, metrics["progress"].min())
        assert np.all(np.asarray(state.done) == 1.0)
        for task, success in zip(tasks.TASKS, metrics["success"].max(0), strict=True):
            won[task.family].append(success)
    assert lowest < -20
    for family, successes in won.items():
        assert np.mean(successes) <= 0.1 + 0.5 * (len(successes) < 8), family


def test_one_compile_serves_all_tasks():
    state = _reset(0)
    _drive(state, np.zeros((1, 4), np.float32))
    resets, steps = RESET._cache_size(), STEP._cache_size()
    state = _reset(9, jnp.arange(COUNT)[::-1])
    _drive(state, np.ones((2, 4), np.float32))
    assert (RESET._cache_size(), STEP._cache_size()) == (resets, steps) == (1, 1)


def test_the_gripper_follows_commands_and_stays_in_its_workspace():
    start = _reset(1)
    here = np.asarray(start.data.qpos[:, model.GRIPPER_Q])
    state, _ = _drive(start, np.tile([0.0, 0.0, 0.8, -1.0], (3, 1)))
    moved = np.asarray(state.data.qpos[:, model.GRIPPER_Q]) - here
    assert np.all(moved[:, 2] > 0.02) and np.abs(moved[:, :2]).max() < 0.01
    state, _ = _drive(start, np.tile([1.0, -1.0, 1.0, 1.0], (24, 1)))
    corner = [tabletop.REACH_HIGH[0], tabletop.REACH_LOW[1], tabletop.REACH_HIGH[2]]
    there = np.asarray(state.data.qpos[:, model.GRIPPER_Q])
    # Some are held up by what lies in their way.
    near = np.linalg.norm(there - corner, axis=1) < 0.03
    assert near.mean() > 0.8
    assert np.median(state.data.qpos[:, model.FINGER_Q]) < 0.005


def test_a_closed_loop_grasp_lifts_what_a_random_policy_does_not():
    names = tasks.names(family="lift")
    indices = jnp.resize(jnp.asarray([tasks.task_index(n) for n in names]), COUNT)
    facts_of = jax.jit(jax.vmap(ENV.facts))
    state = _reset(2, indices)
    best = np.zeros(COUNT)
    for _ in range(40):
        facts = jax.tree.map(np.asarray, facts_of(state))
        error = facts.target - facts.gripper
        far = np.linalg.norm(error[:, :2], axis=1) > 0.02
        goal = facts.target + np.where(far, 0.05, 0.0)[:, None] * [0, 0, 1]
        goal = np.where(facts.grasped[:, None], facts.gripper + [0, 0, 0.04], goal)
        close = np.where(
            facts.grasped | (np.linalg.norm(error, axis=1) < 0.02), 1.0, -1.0
        )
        move = (goal - np.asarray(state.data.ctrl[:, :3])) / tabletop.STRIDE
        action = np.concatenate([np.clip(move, -1, 1), close[:, None]], axis=1)
        state = STEP(state, jnp.asarray(action, jnp.float32))
        best = np.maximum(best, np.asarray(state.metrics["progress"]))
    assert np.mean(best == 100.0) > 0.9


def test_the_same_key_gives_the_same_world():
    one, two, other = _reset(5), _reset(5), _reset(6)
    np.testing.assert_array_equal(one.data.qpos, two.data.qpos)
    assert not np.array_equal(one.data.qpos, other.data.qpos)


def test_the_step_calls_no_lapack():
    state = jax.eval_shape(ENV.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((4,), jnp.float32)
    text = jax.jit(ENV.step).lower(state, action).as_text()
    assert "lapack" not in text and "callback" not in text


def test_observations_have_the_shapes_that_are_promised():
    env = tabletop.make(["lift-red-cube"], image_size=16, episode_length=7)
    state = jax.eval_shape(env.reset, jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in state.obs.items()}
    assert shapes == env.observation_size
    assert state.obs["pixels/external"].dtype == jnp.uint8
    assert state.obs["pixels/wrist"].shape == (16, 16, 3)
    assert env.action_size == 4
    proprio = np.asarray(_reset(0).obs["proprio"])
    assert np.abs(proprio).max() < 3.0


def test_reset_draws_from_the_tasks_of_the_config():
    names = ("open-drawer", "lift-red-cube")
    env = tabletop.make(names, views=())
    keys = jax.random.split(jax.random.key(0), 32)
    drawn = np.asarray(jax.jit(jax.vmap(env.reset))(keys).info["task"])
    assert set(drawn) == {tasks.task_index(name) for name in names}


@pytest.mark.parametrize(
    "settings",
    [
        {"views": ("side",)},
        {"image_size": 0},
        {"episode_length": 0},
        {"tasks": ()},
        {"tasks": ("lift-pink-cube",)},
    ],
)
def test_a_bad_configuration_gets_one_line(settings):
    with pytest.raises(UserError) as caught:
        tabletop.Tabletop(tabletop.TabletopConfig(**settings))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_an_unknown_view_gets_one_line():
    with pytest.raises(UserError, match="views are"):
        ENV.camera(_reset(0), "side")
