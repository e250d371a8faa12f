"""A roll-out hears only its own answers, in order, whatever the batch."""

import jax
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.evals import rollout

TRUE = np.array([[0, 10, 30, 20], [0, -20, -40, -60], [0, 50, 100, 100]], np.float32)


def _views(true):
    frames = (true + 100).astype(np.uint8)[:, :, None, None, None]
    return {"external": np.broadcast_to(frames, (*true.shape, 8, 8, 3)).copy()}


def _roll(rewarder, true=TRUE, **kwargs):
    sentences = ["lift"] * len(true)
    return rollout.roll_out(rewarder, _views(true), sentences, true, seed=0, **kwargs)


def test_it_answers_every_frame_but_the_first(make_rewarder):
    said = _roll(make_rewarder())
    np.testing.assert_allclose(said.progress, TRUE[:, 1:])
    np.testing.assert_allclose(said.expected, TRUE[:, 1:], atol=1e-3)
    assert said.parsed.all() and said.tokens.shape == (3, 3, 1)


def test_memory_is_of_its_own_answers_not_of_the_truth(make_rewarder):
    said = _roll(make_rewarder(gain=0.5, copy=0.5)).progress
    expected = np.zeros(3)
    for q in range(3):
        expected = np.clip(0.5 * TRUE[:, q + 1] + 0.5 * expected, -100, 100)
        np.testing.assert_allclose(said[:, q], expected, rtol=1e-6)


def test_batches_do_not_change_answers(make_rewarder):
    whole = _roll(make_rewarder(), batch=3)
    seen = []
    parts = _roll(make_rewarder(), batch=2, done=seen.append)
    np.testing.assert_array_equal(whole.progress, parts.progress)
    assert seen == [2, 3]


def test_only_the_oracle_is_handed_the_truth(make_rewarder):
    other = TRUE[:, ::-1].copy()
    other[:, 0] = 0
    views = _views(TRUE)
    blind, oracle = make_rewarder(), make_rewarder(truth=True)
    for rewarder, expected in [(blind, TRUE[:, 1:]), (oracle, other[:, 1:])]:
        said = rollout.roll_out(rewarder, views, ["lift"] * 3, other, seed=0)
        np.testing.assert_allclose(said.progress, expected)


def test_the_nudge_moves_only_the_previous_value(make_rewarder):
    plain = _roll(make_rewarder(gain=0.5, copy=0.25))
    said = _roll(make_rewarder(gain=0.5, copy=0.25), nudge=True)
    np.testing.assert_array_equal(said.progress, plain.progress)
    assert plain.nudged is None
    shown = np.clip(TRUE[:, :-1] + 40, -100, 100)
    np.testing.assert_allclose(said.nudged.shown_raised, shown)
    np.testing.assert_allclose(
        said.nudged.raised, np.clip(0.5 * TRUE[:, 1:] + 0.25 * shown, -100, 100)
    )


def test_without_a_previous_value_there_is_nothing_to_nudge(make_rewarder):
    assert _roll(make_rewarder(), nudge=True).nudged is None


def test_missing_views_and_other_sizes_are_refused(make_rewarder):
    with pytest.raises(UserError, match="missing view"):
        _roll(make_rewarder(views=("external", "wrist")))
    content = make_rewarder(views=("external", "wrist")).replace(dispensable=("wrist",))
    np.testing.assert_allclose(_roll(content).progress, TRUE[:, 1:])
    rewarder = make_rewarder().replace(image_size=16)
    with pytest.raises(UserError, match="16 pixels"):
        _roll(rewarder)


def test_all_batches_share_one_compilation(make_rewarder):
    rewarder = make_rewarder()
    before = rollout._watch._cache_size()
    _roll(rewarder, np.repeat(TRUE, 3, axis=0), batch=2)
    assert rollout._watch._cache_size() == before + 1
    assert jax.tree.leaves(rewarder.params)
