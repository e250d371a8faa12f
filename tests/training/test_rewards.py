"""Verifiable rewards: form, number, truth of claims."""

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import text
from soler1_jax.training import rewards

TRUTH = {"motion": "nearer", "contact": "no", "trend": "up"}
CONFIG = rewards.RewardConfig(tau=10.0, claims=0.5)
TRUE = "gripper nearer, no contact, progress up"
FALSE = "gripper farther, in contact, progress down"


def _total(completion, progress=40.0):
    return rewards.grade([completion], [progress], [TRUTH], CONFIG).total[0]


def test_the_best_completion_earns_every_part():
    best = text.progress_completion(TRUE, 40)
    assert _total(best) == pytest.approx(0.5 + 1.5 + 0.5)


def test_accuracy_decays_with_the_error():
    parts = rewards.grade(
        [text.progress_completion(TRUE, p) for p in (40, 50, 20)],
        [40.0] * 3,
        [TRUTH] * 3,
        CONFIG,
    )
    np.testing.assert_allclose(
        parts.accuracy, 1.5 * np.exp([0.0, -1.0, -2.0]), rtol=1e-5
    )


def test_form_is_partial():
    assert rewards.form("anything") == 0
    assert rewards.form(text.completion("x", "no number")) == 0.25
    assert rewards.form(text.progress_completion("x", -5)) == 0.5


def test_an_empty_thought_and_a_false_one_earn_less_than_a_true_one():
    empty, false = (text.progress_completion(t, 40) for t in ("", FALSE))
    assert _total(empty) == _total(false) == pytest.approx(2.0)
    assert _total(text.progress_completion(TRUE, 40)) > _total(empty)
    half = text.progress_completion("gripper nearer, no contact", 40)
    assert _total(empty) < _total(half) < 2.5


def test_impossible_weights_are_refused():
    with pytest.raises(UserError):
        rewards.RewardConfig(tau=0.0)
