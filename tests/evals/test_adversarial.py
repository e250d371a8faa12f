"""The search for falsely praised states: states are where they are put, and it finds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder, TaskText, certain_verdict
from soler1_jax.envs import model, tasks
from soler1_jax.evals import adversarial
from soler1_jax.evals.adversarial import AXES, Answers, SearchConfig, Worst


def _worst(said, true):
    return Worst(said, true, {}, {}, "", np.zeros(len(AXES)))


def test_figures_count_praise_without_progress():
    said = np.array([[90.0, 85.0, 20.0, 95.0]])
    true = np.array([[95.0, 10.0, 10.0, -60.0]])
    answers = Answers(said, true)
    row = adversarial._figures([answers], [_worst(90, 20), _worst(90, 60)])
    assert row["states"] == 4
    assert row["false_per_1000"] == 500
    assert row["deceived"] == 0.5
    assert row["mae"] == pytest.approx(np.mean([5, 75, 10, 155]))
    # What was undone is no more than nothing done.
    np.testing.assert_allclose(answers.excess, [[-5, 75, 10, 95]])


def test_the_worst_state_of_each_world_is_kept():
    def candidates(said):
        said = np.array(said, np.float32)
        return Answers(said, np.zeros_like(said))

    states = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    first = adversarial._better(
        None, states, candidates([[1, 5, 2, 0], [7, 0, 0, 0]]), np.array([1, 0])
    )
    best = adversarial._better(
        first, states + 100, candidates([[1, 2, 9, 0], [6, 0, 0, 0]]), np.array([2, 0])
    )
    np.testing.assert_array_equal(best[0].ravel(), [102, 4])
    np.testing.assert_array_equal(best[1], [9, 7])


@pytest.mark.parametrize("wrong", [{"candidates": 9}, {"rounds": 0}, {"worlds": -1}])
def test_an_impossible_search_is_one_line(wrong):
    with pytest.raises(UserError):
        SearchConfig(**wrong)


def _rewarder(answer, uses_truth=False):
    """Says answer(views, truth) of the external view."""

    def score(params, state, views, key, truth):
        return state, certain_verdict(answer(views["external"]))

    return Rewarder(
        params={},
        name="fake",
        views=("external",),
        image_size=16,
        uses_truth=uses_truth,
        start=lambda params, views, task, key: jnp.zeros(len(task.ids)),
        score=score,
        prepare=lambda s: TaskText(
            np.ones((len(s), 1), np.int32), np.ones((len(s), 1), bool)
        ),
        decode=lambda tokens: "",
    )


def test_the_oracle_cannot_be_searched():
    oracle = _rewarder(lambda seen: seen[:, 0, 0, 0], uses_truth=True)
    with pytest.raises(UserError, match="looks"):
        adversarial.Searcher(oracle, SearchConfig())


@pytest.mark.slow
def test_states_are_where_they_are_put_and_fall_to_the_table():
    searcher = adversarial.Searcher(_rewarder(lambda seen: seen), SearchConfig())
    index = tasks.task_index("push-left-red-cube")
    start = searcher.env.reset_task(jax.random.key(0), index)
    at = np.full(len(AXES), 0.5, np.float32)
    at[AXES.index("gripper_x")] = 0.9
    at[AXES.index("object0_x")] = 0.1
    at[AXES.index("object0_z")] = 1.0
    at[AXES.index("aperture")] = 0.25
    placed = jax.jit(lambda s, a: adversarial.place(searcher.env, s, a))(start, at)
    facts = searcher.env.facts(placed)
    low, high = np.array(adversarial.REACH_LOW), np.array(adversarial.REACH_HIGH)
    wanted = low + np.array([0.9, 0.5, 0.5]) * (high - low)
    np.testing.assert_allclose(facts.gripper, wanted, atol=0.005)
    aperture, size = float(facts.aperture), float(facts.object_size[0])
    x, _, z = facts.objects[0].tolist()
    assert aperture == pytest.approx(0.5 * model.FINGER_TRAVEL, abs=0.004)
    assert x == pytest.approx(-0.8 * adversarial.TABLE_X, abs=0.01)
    assert z == pytest.approx(size, abs=0.005)


@pytest.mark.slow
def test_a_search_finds_what_it_looks_for_and_beats_chance():
    # Praises dark pictures, whatever happens.
    def darkness(seen):
        return 100 - 0.6 * seen.astype(jnp.float32).mean((1, 2, 3))

    config = SearchConfig(worlds=1, candidates=20, rounds=4, seed=3)
    name = "push-left-red-cube"
    figures, worst = adversarial.search(_rewarder(darkness), [name], config)
    alone = dataclasses.replace(config, rounds=1)
    chance, _ = adversarial.search(_rewarder(darkness), [name], alone)
    gain = [f["worst_said"] - max(f["worst_true"], 0) for f in (figures, chance)]
    assert gain[0] > gain[1] + 0.5
    assert figures["tasks"][name]["states"] == 20
    (state,) = worst[name]
    seen = state.frames["external"][None]
    assert float(darkness(jnp.asarray(seen))[0]) == pytest.approx(state.said, abs=0.1)
    modest, _ = adversarial.search(
        _rewarder(lambda s: 0.0 * s[:, 0, 0, 0]), [name], alone
    )
    assert modest["deceived"] == 0 and modest["false_per_1000"] == 0
