"""Metrics against scipy, values worked out by hand, and their invariances."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from soler1_jax.evals import metrics

# Multiples of a half keep differences exact, so that ties are ties in every order.
VALUES = st.integers(-200, 200).map(lambda i: i / 2)
PAIRS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=VALUES),
        hnp.arrays(np.float64, n, elements=VALUES),
    )
)


def _moves(*arrays):
    return all(np.ptp(a) > 0 for a in arrays)


@hypothesis.given(PAIRS)
def test_correlations_equal_scipy(pair):
    x, y = pair
    hypothesis.assume(_moves(x, y))
    assert metrics.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y)[0])
    assert metrics.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0])
    np.testing.assert_allclose(metrics.ranks(x), scipy.stats.rankdata(x))


@hypothesis.given(PAIRS)
def test_tau_a_counts_pairs(pair):
    x, y = pair
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    agree = sum(np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in pairs)
    assert metrics.kendall_tau_a(x, y) == pytest.approx(agree / len(pairs))


def test_tau_a_equals_scipy_without_ties():
    rng = np.random.default_rng(0)
    x, y = rng.permutation(9), rng.permutation(9)
    assert metrics.kendall_tau_a(x, y) == pytest.approx(scipy.stats.kendalltau(x, y)[0])


@hypothesis.given(PAIRS, st.floats(0.1, 10), VALUES)
def test_correlations_ignore_scale_and_offset(pair, scale, offset):
    x, y = pair
    hypothesis.assume(_moves(x, y))
    moved = scale * x + offset
    assert metrics.pearson(moved, y) == pytest.approx(metrics.pearson(x, y), abs=1e-6)
    assert metrics.pearson(-x, y) == pytest.approx(-metrics.pearson(x, y))


def test_constant_predictions_count_as_zero_and_constant_truth_is_left_out():
    predicted = [[1, 2, 3], [5, 5, 5], [1, 9, 2]]
    true = [[10, 20, 30], [0, 50, 100], [7, 7, 7]]
    within = metrics.within_episodes(metrics.pearson, predicted, true)
    assert within == (pytest.approx(0.5), 2, 1, 1)
    nothing = metrics.within_episodes(metrics.pearson, [[1, 2]], [[3, 3]])
    assert np.isnan(nothing.mean) and nothing.episodes == 0


def test_mae_by_hand():
    assert metrics.mae([0, 10, -20], [10, 10, 20]) == pytest.approx(50 / 3)


def test_voc_sees_order_only():
    assert metrics.voc([[1, 2, 50], [3, 2, 1], [4, 4, 4]]).mean == pytest.approx(0)
    assert metrics.voc([[-5, 0, 99]]).mean == pytest.approx(1)
    assert metrics.voc([[4, 4, 4]]) == (0.0, 1, 1, 0)


@hypothesis.given(
    st.floats(-2, 2),
    hnp.arrays(np.float64, 7, elements=VALUES),
    hnp.arrays(np.float64, 7, elements=VALUES),
)
def test_copy_slope_recovers_a_linear_follower(slope, truth, own):
    up, down = np.clip(truth + 40, -100, 100), np.clip(truth - 40, -100, 100)
    answers = [own + slope * shown for shown in (up, down)]
    assert metrics.copy_slope(*answers, up, down) == pytest.approx(slope, abs=1e-9)


def test_copy_slope_of_a_copier_and_of_nothing():
    up, down = np.array([40.0, 100.0]), np.array([-40.0, 60.0])
    assert metrics.copy_slope(up, down, up, down) == pytest.approx(1)
    assert metrics.copy_slope([7, 8], [7, 8], up, down) == 0
    assert np.isnan(metrics.copy_slope([1], [1], [0], [0]))


@hypothesis.given(hnp.arrays(np.float64, 10, elements=VALUES), hnp.arrays(bool, 10))
def test_auc_is_the_chance_of_ranking_a_success_higher(scores, labels):
    hypothesis.assume(labels.any() and not labels.all())
    wins = [
        float(s > f) + 0.5 * float(s == f)
        for s in scores[labels]
        for f in scores[~labels]
    ]
    assert metrics.auc(scores, labels) == pytest.approx(np.mean(wins))
    assert metrics.auc(-scores, labels) == pytest.approx(1 - np.mean(wins))


def test_auc_needs_both_outcomes():
    assert np.isnan(metrics.auc([1, 2], [True, True]))


def test_success_is_the_mean_of_the_highest_and_never_below_the_start():
    assert metrics.perceived_success([[10, 80, 30], [-20, -5]]) == 40
    assert metrics.true_success([[100, 0], [50, 20]]) == 75


def test_hack_rate_looks_at_failures_only():
    predicted = [[95], [10], [99], [20]]
    assert metrics.hack_rate(predicted, [True, False, False, False]) == pytest.approx(
        1 / 3
    )
    assert np.isnan(metrics.hack_rate(predicted, [True] * 4))


def test_episodes_that_hardly_move_can_be_left_out():
    predicted, true = [[1, 2, 3], [3, 2, 1]], [[0, 50, 90], [7, 8, 9]]
    assert metrics.within_episodes(metrics.pearson, predicted, true).mean < 0.1
    moving = metrics.within_episodes(metrics.pearson, predicted, true, 5.0)
    assert moving.mean > 0.9 and moving.constant_true == 1


def test_claims_against_the_majority_rate():
    truth = [{"motion": "nearer"}, {"motion": "nearer"}, {"motion": "same"}, {}]
    stated = [{"motion": "nearer"}, {}, {"motion": "farther"}, {"motion": "same"}]
    assert metrics.claim_accuracy(stated, truth)["motion"] == {
        "accuracy": pytest.approx(1 / 3),
        "majority": pytest.approx(2 / 3),
        "coverage": pytest.approx(2 / 3),
        "recall": pytest.approx(1 / 3),
        "balanced": pytest.approx((1 / 2 + 0) / 2),
        "values": 2,
        "stated": 3,
        "due": 3,
    }


def test_balanced_accuracy_is_no_higher_for_who_always_says_the_same():
    truth = [{"wrong": "yes"}] + [{"wrong": "no"}] * 24
    row = metrics.claim_accuracy([{"wrong": "no"}] * 25, truth)["wrong"]
    assert row["accuracy"] == row["majority"] == 0.96
    assert row["balanced"] == 1 / row["values"] == 0.5
    assert metrics.claim_accuracy(truth, truth)["wrong"]["balanced"] == 1


def test_silence_can_be_a_statement():
    truth = [{"wrong": "yes"}, {}, {}, {}]
    stated = [{}, {}, {"wrong": "yes"}, {}]
    row = metrics.claim_accuracy(stated, truth, silent=("wrong",))["wrong"]
    assert row["accuracy"] == 0.5 and row["majority"] == 0.75
