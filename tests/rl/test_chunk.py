"""The rollout: when it looks, what it rewards, and what it is blind to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.rewarder import certain_verdict
from soler1_jax.reward import baselines
from soler1_jax.rl.chunk import ChunkConfig, interpolate, make_collect
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.types import shapes_of

CONFIG = ChunkConfig(every=3, queries=4, scale=0.01, bound=50.0)
WORLDS = 4


def collector(env, rewarder):
    """One noisy episode with a fresh policy, compiled once for all tasks."""
    settings = PPOConfig(worlds=WORLDS, quiet=1, batch=6, hidden=8)
    agent = make_ppo(settings, shapes_of(env), CONFIG.steps)
    state = agent.init(jax.random.key(0))
    text = jax.tree.map(jnp.asarray, rewarder.prepare(["reach the dot"]))
    run = jax.jit(make_collect(env, rewarder, agent, CONFIG))
    explore, key = jnp.float32(1), jax.random.key(0)
    return lambda task=0: run(
        state, rewarder.params, jnp.int32(task), text, explore, key
    )


def looker() -> object:
    """A rewarder whose progress is the brightness of the pictures it is shown."""

    def start(params, views, task, key):
        return views["external"]

    def score(params, first, views, key, truth):
        assert truth is None
        change = views["external"].astype(jnp.float32) - first
        return first, certain_verdict(jnp.abs(change).mean((1, 2, 3)))

    base = baselines.random()
    return base.replace(views=("external",), image_size=24, start=start, score=score)


def test_reward_is_the_interpolated_and_cut_progress(toy_reach):
    episode, record = collector(toy_reach(), baselines.oracle())()
    assert episode.reward.shape == (12, WORLDS)
    assert episode.observation.pixels.shape == (13, WORLDS, 16, 16, 3)
    np.testing.assert_array_equal(record.predicted[0], 0)
    points = np.asarray(record.predicted)
    for world in range(WORLDS):
        curve = np.interp(np.arange(1, 13), np.arange(0, 13, 3), points[:, world])
        expected = 0.01 * np.clip(curve, -50, 50)
        np.testing.assert_allclose(episode.reward[:, world], expected, atol=1e-5)
    np.testing.assert_allclose(record.true[1:], record.predicted[1:], atol=1e-5)


def test_interpolation_ends_at_the_answer():
    found = interpolate(jnp.float32([0, 40]), jnp.float32([50, -10]), 5)
    np.testing.assert_allclose(found[:, 0], [10, 20, 30, 40, 50])
    np.testing.assert_allclose(found[:, 1], [30, 20, 10, 0, -10], atol=1e-5)


def test_the_rewarders_view_is_rendered_at_queries_only(toy_reach):
    rendered = []

    class Counted(toy_reach):
        def render(self, state, view, size):
            jax.debug.callback(lambda: rendered.append((view, size)))
            return super().render(state, view, size)

    _, record = collector(Counted(), looker())()
    jax.effects_barrier()
    assert record.frames["external"].shape == (5, WORLDS, 24, 24, 3)
    assert set(rendered) == {("external", 24)}
    # An unbatched callback under vmap runs once a call: first frame and four queries.
    assert len(rendered) in (5, 5 * WORLDS)


@pytest.mark.parametrize("make", [looker, baselines.oracle])
def test_learner_and_rewarder_are_blind_to_the_truth(toy_reach, make):
    # Task 2 is task 0 with false metrics: only the truth differs.
    run = collector(toy_reach(), make())
    plain, record = run(task=0)
    lied, other = run(task=2)
    assert not np.allclose(record.true, other.true)
    if make is looker:
        jax.tree.map(np.testing.assert_array_equal, plain, lied)
        np.testing.assert_array_equal(record.predicted, other.predicted)
    else:
        # The oracle alone is handed the truth, so it falls for the lie.
        assert not np.allclose(plain.reward, lied.reward)
