"""Exploration: quiet worlds, a ladder of noise, a schedule."""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2, noise_ladder
from soler1_jax.rl.types import Observation, Shapes

CONFIG = DrQConfig(
    worlds=10, quiet=0.5, batch=40, capacity=2, noise_iterations=4, hidden=16
)
SHAPES = Shapes((8, 8, 3), 2, 3)


def test_the_ladder_starts_flat_and_ends_from_low_to_high():
    first, last = noise_ladder(CONFIG, jnp.int32(0)), noise_ladder(CONFIG, jnp.int32(9))
    np.testing.assert_allclose(first, [0] * 5 + [1.0] * 5)
    np.testing.assert_allclose(last, [0] * 5 + [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)


def test_noise_is_correlated_and_evaluation_has_none(key):
    agent = make_drqv2(CONFIG, SHAPES, 4)
    state = agent.init(key)
    seen = Observation(jnp.zeros((10, 8, 8, 3), jnp.uint8), jnp.zeros((10, 2)))

    @jax.jit
    def noises(explore):
        def act(carry, step):
            carry, _, _ = agent.act(state, carry, seen, step)
            return carry, carry[0][:, None] * carry[1]

        steps = jax.random.split(key, 60)
        return jax.lax.scan(act, agent.begin(state, explore), steps)[1]

    assert not noises(0.0).any()
    noise = np.asarray(noises(1.0))
    assert not noise[:, :5].any()
    loud = noise[:, 5:]
    assert np.corrcoef(loud[10:-1].ravel(), loud[11:].ravel())[0, 1] > 0.3
    assert 0.8 < loud[10:].std() < 1.2
