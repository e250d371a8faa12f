"""Two devices: two runs that do not touch each other, or one run that they share."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.rl import shards
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.types import Observation, Shapes, Trajectory

START = """
import importlib.util, sys
import jax, numpy as np
from soler1_jax.reward import baselines
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import shapes_of

spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
jax.config.update("jax_num_cpu_devices", 2)
"""

APART = """
env, episode = toys.ToyReach(), ChunkConfig(every=2, queries=2)
settings = DrQConfig(worlds=4, updates=3, batch=8, capacity=2, hidden=8)
agent = make_drqv2(settings, shapes_of(env), episode.steps)

def learn(devices, tasks, seeds):
    loop = Trainer(env, baselines.oracle(), agent, episode, devices)
    state, work = loop.init(seeds), loop.assign(tasks, ["go"] * len(tasks))
    for _ in range(3):
        state, outcome = loop.learn(state, work)
    _, found, record = loop.evaluate(state, work, 8)
    return np.asarray(record.predicted), outcome.metrics["reward"], found

both, rewards, found = learn(jax.devices(), [0, 1], [5, 6])
alone, reward, _ = learn(jax.devices()[:1], [1], [6])
assert both.shape == (2, 3, 4) and len(found) == 2
assert rewards.sharding.device_set == set(jax.devices())
np.testing.assert_allclose(both[1], alone[0], atol=1e-3)
np.testing.assert_allclose(rewards[1], reward[0], atol=1e-5)
assert abs(both[0] - both[1]).max() > 1
"""


TOGETHER = """
env, episode = toys.ToyReach(), ChunkConfig(every=2, queries=5)
shapes = shapes_of(env)
agents = {
    "ppo": lambda: make_ppo(
        PPOConfig(worlds=64, quiet=8, batch=140, learning_rate=1e-3, hidden=64),
        shapes, episode.steps, 2,
    ),
    "drqv2": lambda: make_drqv2(
        DrQConfig(worlds=16, updates=60, batch=64, learning_rate=1e-3, tau=0.05,
                  capacity=20, noise_iterations=6, hidden=64),
        shapes, episode.steps, 2,
    ),
}
loop = Trainer(env, baselines.oracle(), agents[sys.argv[2]](), episode, jax.devices())
state, work = loop.init([0]), loop.assign([0], ["reach the dot"])
state, before, _ = loop.evaluate(state, work, 64)
for _ in range(24):
    state, outcome = loop.learn(state, work)
state, after, record = loop.evaluate(state, work, 64)
assert loop.runs == 1 and record.predicted.shape == (1, 6, loop.worlds)
assert len(np.unique(record.predicted[0, -1])) > 0.75 * loop.worlds
assert after[0].episodes == 64
assert before[0].true_success <= 0.1 and after[0].true_success >= 0.6, (before, after)

# The devices hold the same networks, to the bit, and draw different numbers.
networks = [state.agent.params] if sys.argv[2] == "ppo" else [
    state.agent.critic, state.agent.actor, state.agent.target]
for leaf in jax.tree.leaves(networks):
    np.testing.assert_array_equal(leaf[0], leaf[1])
keys = jax.random.key_data(state.key)
assert (keys[0] != keys[1]).any()
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [(APART,), (TOGETHER, "ppo"), (TOGETHER, "drqv2")])
def test_two_devices(program):
    body, *arguments = program
    toys = Path(__file__).with_name("conftest.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", START + body, str(toys), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_batch_shared_by_two_devices_gives_the_gradient_of_the_whole():
    shapes = Shapes((8, 8, 3), 1, 2)
    config = PPOConfig(worlds=4, quiet=0, batch=8, learning_rate=1e-2, hidden=8)
    keys = jax.random.split(jax.random.key(0), 6)
    pixels = jax.random.randint(keys[0], (5, 4, 8, 8, 3), 0, 256, jnp.uint8)
    episode = Trajectory(
        Observation(pixels, jax.random.normal(keys[1], (5, 4, 1))),
        jax.random.normal(keys[2], (4, 4, 2)),
        jax.random.normal(keys[3], (4, 4)),
        {
            "log_prob": jax.random.normal(keys[4], (4, 4)),
            "value": jax.random.normal(keys[5], (4, 4)),
        },
    )
    # One batch an epoch, so that the order of the samples does not matter.
    whole = make_ppo(dataclasses.replace(config, batch=16), shapes, 4)
    state, key = whole.init(jax.random.key(1)), jax.random.key(2)
    expected, _ = whole.learn(state, episode, key, jnp.bool_(True))
    half = make_ppo(dataclasses.replace(config, batch=16), shapes, 4, devices=2)
    parts = jax.tree.map(lambda x: jnp.stack([x[:, :2], x[:, 2:]]), episode)
    learn = jax.vmap(
        lambda part: half.learn(state, part, key, jnp.bool_(True))[0],
        axis_name=shards.AXIS,
    )
    found = learn(parts)
    # The optimizer's memory, not the parameters: Adam makes a step of its learning rate
    # even out of a gradient that is nothing but rounding.
    pairs = zip(
        jax.tree.leaves(found.optimizer),
        jax.tree.leaves(expected.optimizer),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(a[0], a[1])
