"""Properties that each loss must have."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.data.records import CLASSES, COLORS, FACTS, SHAPES
from soler1_jax.training import losses, perception


def test_next_token_counts_only_the_completion(key):
    logits = jax.random.normal(key, (2, 4, 6))
    targets = jnp.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    logp = jax.nn.log_softmax(logits)
    expected = -np.mean(
        [logp[0, 0, 1], logp[0, 1, 2], logp[0, 2, 3]] + [logp[1, 0, 4], logp[1, 1, 5]]
    )
    got = float(losses.next_token(logits, targets, mask))
    assert got == pytest.approx(expected, rel=1e-5)
    grad = jax.grad(losses.next_token)(logits, targets, mask)
    assert not np.any(np.asarray(grad)[~np.asarray(mask)])


def test_next_token_does_not_depend_on_padding_length(key):
    logits = jax.random.normal(key, (2, 3, 6))
    targets = jnp.array([[1, 2, 3], [4, 5, 1]])
    mask = jnp.ones((2, 3), bool)
    short = losses.next_token(logits, targets, mask)
    wide = ((0, 0), (0, 5))
    padded = losses.next_token(
        jnp.pad(logits, (*wide, (0, 0)), constant_values=3.0),
        jnp.pad(targets, wide),
        jnp.pad(mask, wide),
    )
    assert float(short) == pytest.approx(float(padded), rel=1e-6)


def test_soft_bins_are_a_distribution_around_the_value():
    bins = losses.soft_bins(jnp.array([0.0, 37.0, -100.0]), 5.0)
    np.testing.assert_allclose(bins.sum(-1), 1, rtol=1e-5)
    centres = np.linspace(-100, 100, 41)
    np.testing.assert_allclose((bins @ centres)[:2], [0, 37], atol=0.5)
    assert np.argmax(bins[2]) == 0


def test_value_bins_are_least_at_the_truth():
    truth = jnp.array([40.0])
    mask = jnp.array([True])
    right = jnp.log(losses.soft_bins(truth, 5.0) + 1e-6)
    wrong = jnp.log(losses.soft_bins(truth + 30, 5.0) + 1e-6)
    assert losses.value_bins(right, truth, mask) < losses.value_bins(wrong, truth, mask)


def test_answer_values_are_read_where_the_answer_begins():
    values = jnp.arange(2 * 3 * 41.0).reshape(2, 3, 41)
    taken = losses.answer_values(values, jnp.array([2, 0]))
    np.testing.assert_array_equal(taken, [values[0, 2], values[1, 0]])


def test_losses_over_nothing_are_zero(key):
    nothing = jnp.zeros((2, 3), bool)
    logits = jax.random.normal(key, (2, 3, 5))
    assert losses.next_token(logits, jnp.zeros((2, 3), int), nothing) == 0
    assert losses.heat(logits, jnp.zeros((2, 3, 5)), nothing) == 0


def _scenes():
    """Two frames, four patches: gripper in 0, red ball in 1 and 2, door in 3."""
    shares = np.zeros((2, 4, 8), np.float32)
    shares[:, 0, CLASSES.index("gripper")] = 1
    shares[:, 1, CLASSES.index("object0")] = 0.75
    shares[:, 1, 0] = 0.25
    shares[:, 2, CLASSES.index("object0")] = 0.25
    shares[:, 2, 0] = 0.75
    shares[:, 3, CLASSES.index("hinge part")] = 1
    colors = np.full((2, 8), COLORS.index("none"), np.int32)
    shapes = np.full((2, 8), SHAPES.index("none"), np.int32)
    colors[:, 2], shapes[:, 2] = COLORS.index("red"), SHAPES.index("ball")
    facts = np.random.default_rng(0).normal(size=(2, len(FACTS))).astype(np.float32)
    named = np.array([CLASSES.index("hinge part"), 2], np.int32)
    return perception.Scenes(*map(jnp.asarray, (shares, colors, shapes, named, facts)))


def test_heat_target_is_where_the_pixels_are():
    target, visible = perception.heat_target(
        _scenes().shares, jnp.array([[1, 2, 3], [6, 2, 4]])
    )
    np.testing.assert_allclose(target[0, 0], [1, 0, 0, 0])
    np.testing.assert_allclose(target[0, 1], [0, 0.75, 0.25, 0])
    np.testing.assert_allclose(target[1, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(visible, [[1, 1, 0], [1, 1, 0]])


def test_a_fixtures_place_is_its_handle_named_or_not():
    scenes = _scenes()
    places, known = perception.centres(scenes)
    assert [CLASSES[i] for i in np.flatnonzero(~known)] == [
        "background",
        "fixture base",
    ]
    handle = perception.point(scenes.facts, "handle")
    for part in ("slide part", "hinge part"):
        np.testing.assert_array_equal(places[:, CLASSES.index(part)], handle)
    np.testing.assert_array_equal(
        places[1, 2], perception.point(scenes.facts, "object0")[1]
    )


class _Dense:
    def __init__(self, scenes, hot):
        self.classes = hot * jnp.asarray(scenes.shares)
        self.color = jnp.zeros((2, 4, len(COLORS))).at[..., 0].set(hot)
        self.shape = jnp.zeros((2, 4, len(SHAPES))).at[..., 1].set(hot)


def test_dense_losses_fall_towards_the_truth():
    scenes = _scenes()
    good = perception.dense_loss(_Dense(scenes, 8.0), scenes)
    poor = perception.dense_loss(_Dense(scenes, -8.0), scenes)
    for name in ("classes", "color", "shape"):
        assert good[name] < poor[name]
    # only red balls are coloured here, so a model that says so everywhere is right
    assert good["color"] < 0.01 and good["shape"] < 0.01


class _Grounded(NamedTuple):
    heat_logits: jax.Array
    position: jax.Array
    wrist_logits: jax.Array | None = None


def test_grounding_loss_rewards_the_right_patch_and_place():
    scenes = _scenes()
    which, asked = jnp.array([[2, 6], [2, 3]]), jnp.array([[1, 1], [1, 0]], bool)
    things = jnp.concatenate([jnp.ones_like(which[:, :1]), which], 1)
    target, _ = perception.heat_target(scenes.shares, things)
    logits = jnp.log(target + 1e-3)
    places, _ = perception.centres(scenes)
    metres = jnp.take_along_axis(places, things[..., None], 1)
    right = perception.grounding_loss(_Grounded(logits, metres), which, asked, scenes)
    wrong = perception.grounding_loss(
        _Grounded(-logits, metres + 0.2), which, asked, scenes
    )
    assert right["named_peak"] == right["gripper_peak"] == 1
    assert right["named_position"] < 1e-6
    assert float(wrong["named_position"]) == pytest.approx(101**0.5 - 1, rel=1e-4)
    assert right["named_heat"] < wrong["named_heat"]
    assert float(wrong["named_peak"]) == 0
    assert float(perception.total(right)) == pytest.approx(
        sum(float(v) for k, v in right.items() if "peak" not in k)
    )


def test_a_thing_out_of_the_wrists_view_belongs_to_the_last_place():
    scenes = _scenes()
    things = jnp.array([[1, 2, 6], [1, 2, 3]])
    target, there = perception.heat_target(scenes.shares, things)
    assert bool(there.any()) and not bool(there.all())
    places, _ = perception.centres(scenes)
    metres = jnp.take_along_axis(places, things[..., None], 1)
    # the wrist sees what the other camera sees, to have a truth
    both = scenes._replace(shares=jnp.tile(scenes.shares, (1, 2, 1)))
    asked = jnp.ones((2, 2), bool)

    def wrist_heat(close: jax.Array) -> float:
        grounded = _Grounded(jnp.log(target + 1e-3), metres, jnp.log(close + 1e-3))
        found = perception.grounding_loss(grounded, things[:, 1:], asked, both)
        return float(found["wrist_heat"])

    right = jnp.concatenate([target * there[..., None], ~there[..., None]], axis=-1)
    nowhere = jnp.zeros_like(right).at[..., -1].set(1.0)
    blind = right.at[..., -1].set(0.0)
    assert wrist_heat(right) < 0.75 * min(wrist_heat(nowhere), wrist_heat(blind))


def test_state_target_holds_offset_distance_and_progress():
    facts = jnp.zeros((1, len(FACTS)))
    facts = facts.at[0, FACTS.index("named_x")].set(0.2)
    facts = facts.at[0, FACTS.index("progress")].set(50.0)
    target = perception.state_target(facts)
    np.testing.assert_allclose(target, [[1, 0, 0, 1, 0, 0, 0.5]], atol=1e-6)
