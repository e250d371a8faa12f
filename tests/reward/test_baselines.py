"""The oracle repeats the truth; the controls know nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.reward import baselines

TRUTH = jnp.float32([-30, 0, 55, 100])


def ask(rewarder, key, times=1, truth=None):
    """Verdicts of successive queries about four episodes."""
    text = rewarder.prepare(["a", "b", "c", "d"])
    state = rewarder.start(rewarder.params, {}, text, key)
    found = []
    for query in jax.random.split(key, times):
        state, verdict = rewarder.score(rewarder.params, state, {}, query, truth)
        found.append(verdict)
    return found


def test_oracle_repeats_the_truth(key):
    rewarder = baselines.oracle()
    verdict = ask(rewarder, key, truth=TRUTH)[0]
    np.testing.assert_allclose(verdict.progress, TRUTH)
    np.testing.assert_allclose(verdict.expected, TRUTH, atol=1e-4)
    assert rewarder.uses_truth


def test_time_rises_to_the_end(key):
    progress = [v.progress for v in ask(baselines.time(4), key, 5)]
    expected = np.repeat([[25], [50], [75], [100], [100]], 4, axis=1)
    np.testing.assert_allclose(progress, expected)


def test_random_fills_the_range_and_changes_with_each_query(key):
    progress = np.array([v.progress for v in ask(baselines.random(), key, 200)])
    assert np.abs(progress).max() <= 100
    assert progress.min() < -90 and progress.max() > 90
    assert abs(progress.mean()) < 10
    assert not baselines.random().uses_truth
