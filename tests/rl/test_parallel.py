"""Two runs on two devices are the runs that one device learns alone."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib.util, sys
import jax, numpy as np
from soler1_jax.reward import baselines
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import shapes_of

spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
jax.config.update("jax_num_cpu_devices", 2)
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


def test_runs_on_two_devices_do_not_touch_each_other():
    toys = Path(__file__).with_name("conftest.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(toys)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
