"""The distribution over answers."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soler1_jax.common import rewarder


@given(st.lists(st.floats(-150, 150, width=32), min_size=1, max_size=8))
def test_two_hot_keeps_the_mean_and_sums_to_one(values):
    progress = jnp.asarray(values, jnp.float32)
    mass = rewarder.two_hot(progress)
    np.testing.assert_allclose(mass.sum(-1), 1.0, atol=1e-5)
    expected = mass @ rewarder.bin_centers()
    np.testing.assert_allclose(expected, np.clip(values, -100, 100), atol=1e-3)
    assert int((mass > 0).sum(-1).max()) <= 2


def test_entropy_of_certainty_and_of_ignorance():
    certain = rewarder.two_hot(jnp.zeros(1))
    uniform = jnp.full((1, rewarder.BIN_COUNT), 1 / rewarder.BIN_COUNT)
    assert float(rewarder.entropy(certain)[0]) == 0.0
    np.testing.assert_allclose(
        rewarder.entropy(uniform), np.log(rewarder.BIN_COUNT), rtol=1e-5
    )


def test_a_certain_verdict_says_what_it_was_given():
    verdict = rewarder.certain_verdict(jnp.asarray([-120.0, 12.0]), token_count=3)
    np.testing.assert_allclose(verdict.progress, [-100.0, 12.0])
    np.testing.assert_allclose(verdict.expected, [-100.0, 12.0])
    assert verdict.tokens.shape == (2, 3) and bool(verdict.parsed.all())
