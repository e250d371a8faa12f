"""An evaluation tells a rewarder that sees from one that copies or guesses."""

import json

import numpy as np
import pytest

from soler1_jax.evals import rewarder as evaluation


@pytest.fixture
def episodes(make_episode):
    """Successes, failures and a reversal, of two families."""
    curves = [
        [0, 25, 50, 75, 100],
        [0, 20, 60, 100, 40],
        [0, 10, 20, 10, 0],
        [0, -10, -20, -40, -60],
        [0, 0, 5, 0, 5],
        [0, 30, 70, 90, 100],
    ]
    return [
        make_episode(curve, i, "lift" if i % 2 else "touch")
        for i, curve in enumerate(curves)
    ]


def _result(rewarder, episodes, controls=None):
    found = evaluation.evaluate(rewarder, controls or {}, {"unseen": episodes}, seed=3)
    return json.loads(json.dumps(found.result, default=float, allow_nan=False))


def test_a_rewarder_that_sees_beats_its_controls(make_rewarder, episodes):
    result = _result(make_rewarder(), episodes, {"flat": make_rewarder(gain=0.0)})
    assert result["mae"] == pytest.approx(0, abs=1e-4)
    assert result["pearson"] == pytest.approx(1)
    assert result["parse_rate"] == 1 and result["auc_highest"] == 1
    unseen = result["splits"]["unseen"]
    assert unseen["success_rate"] == 0.5
    assert unseen["perceived_success"] == pytest.approx(unseen["true_success"])
    assert set(unseen["families"]) == {"lift", "touch"}
    assert unseen["tasks"]["lift-red-cube"]["episodes"] == 3
    controls = result["controls"]["unseen"]
    assert set(controls) == {"flat", "frozen", "zero"}
    for control in controls.values():
        assert control["pearson"] == 0
        assert control["mae"] > 10
    assert controls["zero"]["mae"] == pytest.approx(
        np.mean([np.abs(e.progress[1:]).mean() for e in episodes])
    )
    frozen = controls["frozen"]
    assert frozen["pearson_episodes"]["constant_predicted"] == 6
    assert frozen["mae"] == pytest.approx(
        np.mean([np.abs(e.progress[1:] - e.progress[1]).mean() for e in episodes])
    )


def test_errors_are_kept_per_query(make_rewarder, episodes):
    result = _result(make_rewarder(gain=0.0), episodes)
    true = np.stack([e.progress[1:] for e in episodes])
    np.testing.assert_allclose(
        result["splits"]["unseen"]["error_by_query"], np.abs(true).mean(0), rtol=1e-5
    )


def test_doubt_is_worth_something_if_wrong_answers_have_more_of_it():
    error = np.array([[0, 5, 30], [10, 40, 2]], np.float32)
    told = evaluation.doubt(error, error)
    assert told == {"wrong": pytest.approx(1 / 3), "auc": 1.0, "wrong_if_sure": 0.0}
    assert evaluation.doubt(-error, error)["auc"] == 0.0
    assert evaluation.doubt(np.ones_like(error), error)["auc"] == 0.5


def test_copying_is_measured_and_its_absence_is_by_construction(
    make_rewarder, episodes
):
    copier = _result(make_rewarder(gain=0.2, copy=0.6), episodes)
    assert copier["copy_slope"] == pytest.approx(0.6, abs=1e-3)
    assert "measured" in copier["copy_slope_how"]
    blind = _result(make_rewarder(), episodes)
    assert blind["copy_slope"] == 0 and "by construction" in blind["copy_slope_how"]


def test_thoughts_are_checked_against_the_facts(make_rewarder, episodes):
    result = _result(make_rewarder(words=True), episodes)
    claims = result["splits"]["unseen"]["claims"]
    # It says "nearer" whenever progress rises and "farther" otherwise, and so is
    # right except where nothing changes by more than the threshold.
    true = np.stack([e.progress for e in episodes])
    step = np.diff(true, axis=1)
    assert claims["trend"]["accuracy"] == pytest.approx(np.mean(np.abs(step) > 2))
    assert claims["trend"]["stated"] == step.size
    assert claims["contact"]["accuracy"] is None
    assert claims["contact"]["coverage"] == 0 and claims["contact"]["majority"] == 1
    drawn = result["samples"]
    assert len(drawn) == min(50, step.size)
    for row in drawn:
        for claim in row["claims"]:
            assert claim["right"] == (claim["said"] == claim["truth"])
    assert any(not c["right"] for row in drawn for c in row["claims"])


def test_wordless_rewarders_have_no_claims(make_rewarder, episodes):
    result = _result(make_rewarder(), episodes)
    assert result["splits"]["unseen"]["claims"] == {} and result["samples"] == []


def test_the_number_in_the_words_is_judged_beside_the_read_out(make_rewarder, episodes):
    result = _result(make_rewarder(words=True), episodes)
    readouts = result["splits"]["unseen"]["readouts"]
    # The fake's words always end in 7, whatever its progress.
    true = np.stack([e.progress[1:] for e in episodes])
    assert readouts["stated number"]["mae"] == pytest.approx(np.abs(true - 7).mean())
    assert readouts["expected value"]["mae"] == pytest.approx(0, abs=1e-3)


def test_families_average_the_claims_that_are_said(make_rewarder, episodes):
    families = _result(make_rewarder(words=True), episodes)["splits"]["unseen"][
        "families"
    ]
    # Contact is due and never said; motion and trend are, and "wrong" by silence.
    for family in families.values():
        assert 0 < family["claim_accuracy"] <= 1
        assert 0 < family["claim_majority"] <= 1
