"""Brax's own wrappers, and its PPO, run over the tabletop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.wrappers import training as wrappers

from soler1_jax.envs import brax_adapter, tabletop

WORLDS = 4
LENGTH = 5


def _env():
    return brax_adapter.BraxTabletop(tabletop.make(["reach-red-cube"], views=()))


def test_brax_wrappers_count_truncate_and_reset():
    env = wrappers.VmapWrapper(_env())
    env = wrappers.EpisodeWrapper(env, LENGTH, 1)
    env = wrappers.AutoResetWrapper(env)
    # Brax counts worlds by the shape of keys of the old kind.
    keys = jax.random.split(jax.random.PRNGKey(0), WORLDS)
    first = jax.jit(env.reset)(keys)
    step = jax.jit(env.step)
    state = first
    for count in range(1, LENGTH + 1):
        state = step(state, jnp.ones((WORLDS, env.action_size)))
        assert np.all(np.asarray(state.done) == (count == LENGTH))
    assert np.all(np.asarray(state.info["truncation"]) == 1)
    np.testing.assert_array_equal(state.pipeline_state.qpos, first.pipeline_state.qpos)
    np.testing.assert_array_equal(state.obs, first.obs)
    assert state.obs.shape == (WORLDS, env.observation_size)
    # The next episode starts from scratch and does the same again.
    again = step(state, jnp.ones((WORLDS, env.action_size)))
    once = step(first, jnp.ones((WORLDS, env.action_size)))
    np.testing.assert_allclose(again.reward, once.reward, atol=1e-3)
    assert np.all(np.asarray(again.info["steps"]) == 1)


@pytest.mark.slow
def test_brax_ppo_trains_on_the_tabletop(monkeypatch):
    from brax.training.agents.ppo import train as ppo

    def replicate(tree, devices):
        mesh = jax.sharding.Mesh(np.asarray(devices), ("i",))
        every = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
        return jax.tree.map(
            lambda leaf: jax.device_put(jnp.stack([leaf] * len(devices)), every), tree
        )

    # brax 0.14 calls a function that jax 0.10 no longer has.
    monkeypatch.setattr(jax, "device_put_replicated", replicate, raising=False)
    seen = []
    ppo.train(
        environment=_env(),
        num_timesteps=2000,
        episode_length=10,
        num_envs=32,
        num_eval_envs=8,
        num_evals=2,
        batch_size=16,
        num_minibatches=2,
        unroll_length=5,
        num_updates_per_batch=2,
        normalize_observations=True,
        seed=0,
        progress_fn=lambda steps, metrics: seen.append((steps, metrics)),
    )
    assert seen[-1][0] >= 2000
    assert np.isfinite(seen[-1][1]["eval/episode_reward"])
