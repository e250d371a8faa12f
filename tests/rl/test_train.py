"""Learning end to end on a toy: it learns, compiles once, keeps to the device."""

import jax
import pytest

from soler1_jax.reward import baselines
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import shapes_of

EPISODE = ChunkConfig(every=2, queries=5)
DRQ = DrQConfig(
    worlds=16,
    updates=60,
    batch=64,
    learning_rate=1e-3,
    tau=0.05,
    capacity=20,
    noise_iterations=6,
    hidden=64,
)
PPO = PPOConfig(worlds=64, quiet=8, batch=140, learning_rate=1e-3, hidden=64)


def trainer(algo, env, rewarder=None) -> Trainer:
    shapes = shapes_of(env)
    make = {
        "drqv2": lambda: make_drqv2(DRQ, shapes, EPISODE.steps),
        "ppo": lambda: make_ppo(PPO, shapes, EPISODE.steps),
    }[algo]
    rewarder = rewarder or baselines.oracle()
    return Trainer(env, rewarder, make(), EPISODE, jax.devices()[:1])


@pytest.mark.parametrize(("algo", "iterations"), [("drqv2", 16), ("ppo", 24)])
def test_agent_learns_to_reach_without_compiling_or_copying_again(
    toy_reach, compilations, algo, iterations
):
    loop = trainer(algo, toy_reach())
    work = loop.assign([0], ["reach the dot"])
    state, before, _ = loop.evaluate(loop.init([0]), work, 64)
    state, _ = loop.learn(state, work)
    # Another task and another mode are run-time values of the same program.
    other = loop.assign([1], ["leave the dot"])
    compilations.clear()
    with jax.transfer_guard("disallow"):
        for _ in range(iterations):
            state, outcome = loop.learn(state, work)
        state, _ = loop.watch(state, other)
    state, after, _ = loop.evaluate(state, work, 64)
    assert compilations == []
    assert before[0].true_success <= 0.1
    assert after[0].true_success >= 0.6
    assert after[0].episodes == 64
    assert int(state.iteration[0]) == iterations + 1
