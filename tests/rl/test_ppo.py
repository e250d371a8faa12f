"""Advantages against their definition; the learning rate; an impossible batch."""

import jax
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.rl.ppo import (
    PPOConfig,
    advantages,
    make_ppo,
    quiet_worlds,
    rate_schedule,
)
from soler1_jax.rl.types import Shapes


def test_advantages_are_the_weighted_sum_of_later_errors(key):
    discount, trace = 0.9, 0.7
    reward = np.asarray(jax.random.normal(key, (5, 2)))
    value = np.asarray(jax.random.normal(jax.random.key(1), (6, 2)))
    delta = reward + discount * value[1:] - value[:-1]
    expected = [
        sum((discount * trace) ** (j - t) * delta[j] for j in range(t, 5))
        for t in range(5)
    ]
    found = advantages(reward, value, discount, trace)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_learning_rate_falls_over_the_iterations_and_stays():
    rate = rate_schedule(PPOConfig(learning_rate=1.0, decay=4), 10)
    found = [float(rate(step)) for step in (0, 20, 40, 99)]
    np.testing.assert_allclose(found, [1.0, 0.55, 0.1, 0.1], rtol=1e-6)


def test_a_batch_larger_than_an_iteration_is_refused():
    config = PPOConfig(worlds=8, quiet=2, batch=61)
    with pytest.raises(UserError, match="60 learned steps; got 61"):
        make_ppo(config, Shapes((8, 8, 3), 1, 1), 10)


@pytest.mark.parametrize("devices", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("each", [2, 3, 8, 100])
def test_every_device_has_worlds_of_both_kinds(each, devices):
    worlds = each * devices
    quiet = quiet_worlds(worlds, devices)
    assert quiet % devices == 0 and 0 < quiet <= worlds / 2
    assert quiet >= min(PPOConfig.quiet, worlds // 3)
    config = PPOConfig(worlds=worlds, quiet=quiet, batch=devices)
    make_ppo(config, Shapes((8, 8, 3), 1, 1), 10, devices)


def test_a_device_without_both_kinds_is_refused():
    with pytest.raises(UserError, match="got 7 worlds for 4 devices; give 8"):
        quiet_worlds(7, 4)
