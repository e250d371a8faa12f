"""Changed films and frames: figures of rewarders whose behaviour is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.rewarder import Rewarder, TaskText, certain_verdict
from soler1_jax.evals import probes

RISING = [0, 10, 25, 30, 60, 85]
WAVERING = [0, 30, 10, 40, 20, 70]


@pytest.fixture
def episodes(make_episode):
    return [
        make_episode(p, i) for i, p in enumerate((RISING, WAVERING, RISING[:1] * 6))
    ]


def _comparer() -> Rewarder:
    """Answers first pixel + 2 * previous pixel + 3 * current pixel, scaled down."""

    def pixel(views):
        return views["external"][:, 0, 0, 0].astype(jnp.float32) - 100

    def score(params, state, views, key, truth):
        first, previous = state
        now = pixel(views)
        answer = (first + 2 * previous + 3 * now) / 6
        return (first, now), certain_verdict(answer)

    return Rewarder(
        params={},
        name="comparer",
        views=("external",),
        image_size=8,
        uses_truth=False,
        start=lambda params, views, task, key: (pixel(views), pixel(views)),
        score=score,
        prepare=lambda s: TaskText(
            np.ones((len(s), 1), np.int32), np.ones((len(s), 1), bool)
        ),
        decode=lambda tokens: "",
    )


def test_one_who_sees_each_frame_is_right_in_any_order(episodes, make_rewarder):
    films = probes.probe(make_rewarder(), episodes, seed=0)["films"]
    assert films["as it is"]["mae"] == pytest.approx(0, abs=1e-4)
    assert films["backwards"]["pearson"] == pytest.approx(1)
    assert films["shuffled"]["mae"] == pytest.approx(0, abs=1e-4)
    assert films["frozen"]["mean_absolute"] == pytest.approx(0, abs=1e-4)
    assert "mae" not in films["backwards"]
    assert "without wrist view" not in films


def test_one_who_sees_no_frame_is_found_out(episodes):
    clock = _comparer().replace(
        start=lambda params, views, task, key: jnp.zeros(len(task.ids)),
        score=lambda params, state, views, key, truth: (
            state + 10,
            certain_verdict(state + 10),
        ),
    )
    films = probes.probe(clock, episodes[:2], seed=0)["films"]
    assert films["as it is"]["pearson"] > 0.7
    assert films["backwards"]["pearson"] < -0.7
    assert films["frozen"]["mean_absolute"] > 20


def test_replaced_frames_reach_the_rewarder(episodes):
    rows = probes.probe(_comparer(), episodes[:2], seed=0)["frames"]
    truth = np.array([RISING, WAVERING], np.float32)
    first, previous, now = truth[:, :1], truth[:, :-1], truth[:, 1:]

    def mae(first, previous):
        return np.abs((first + 2 * previous + 3 * now) / 6 - now).mean()

    expected = {
        "first and previous as they are": mae(first, previous),
        "previous in place of first": mae(previous, previous),
        "previous of another episode": mae(first, previous[::-1]),
        "first in place of previous": mae(first, first),
        "current in place of previous": mae(first, now),
        "first and previous swapped": mae(previous, first),
    }
    for name, value in expected.items():
        assert rows[name]["mae"] == pytest.approx(value, rel=1e-4), name
    assert len(set(np.round(list(expected.values()), 3))) == len(expected)
