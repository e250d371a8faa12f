"""Training steps: they learn, ignore padding and text outside the completion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.data.records import SOURCES
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.training import motion, optimizer, sft, state

VOCAB, ANSWER = 40, 10
CONFIG = sft.SftConfig()


@pytest.fixture(scope="module")
def model():
    functions = Functional(preset("micro", VOCAB))
    return functions, jax.jit(functions.init, static_argnums=0)(0)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _jitted_loss(functions, params, batch, config):
    bound = functions.module(params)
    return sft.query_loss(bound, batch, jax.random.key(0), config, ANSWER)


def _query_loss(model, batch, config=CONFIG):
    loss, metrics = _jitted_loss(*model, jax.tree.map(jnp.asarray, batch), config)
    return loss, {k: float(v) for k, v in metrics.items()}


def _steps(model, loss_fn, batch, count, compilations):
    functions, params = model
    config = optimizer.OptimizerConfig(learning_rate=3e-3, warmup_steps=2)
    tx = optimizer.make_optimizer(config, optimizer.schedule(config, count))
    step = sft.make_step(loss_fn, functions.module, tx)
    current = state.create(jax.tree.map(jnp.copy, params), tx, seed=0)
    batch = jax.tree.map(jnp.asarray, batch)
    history = []
    for _ in range(count):
        current, metrics = step(current, batch)
        history.append({k: float(v) for k, v in metrics.items()})
        if len(history) == 1:
            compilations.clear()
    assert compilations == [], "a step compiles once"
    return current, history


def test_perception_step_learns_what_it_is_shown(model, batch, compilations):
    def loss(bound, b, key):
        return sft.perception_loss(bound, b, key, CONFIG)

    _, history = _steps(model, loss, batch, 40, compilations)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_query_step_learns_its_completions(model, batch, compilations):
    def loss(bound, b, key):
        return sft.query_loss(bound, b, key, CONFIG, ANSWER)

    _, history = _steps(model, loss, batch, 40, compilations)
    for part in ("tokens", "bins", "state"):
        assert history[-1][part] < 0.9 * history[0][part], part


def test_padding_of_prompt_and_completion_changes_nothing(model, batch):
    before = _query_loss(model, batch)[0]
    wider = dict(batch)
    for name in ("prompt", "completion", "name"):
        for part, filler in (("ids", 7), ("mask", 0)):
            value = batch[f"{name}_{part}"]
            pad = np.full((*value.shape[:-1], 3), filler, value.dtype)
            wider[f"{name}_{part}"] = np.concatenate([value, pad], axis=-1)
    assert float(_query_loss(model, wider)[0]) == pytest.approx(float(before), rel=1e-5)


def test_questions_teach_no_progress(model, batch):
    questions = dict(batch, source=np.ones_like(batch["source"]))
    _, metrics = _query_loss(model, questions)
    assert metrics["bins"] == metrics["state"] == 0 < metrics["tokens"]
    other = dict(questions, progress=batch["progress"] + 1)
    assert _query_loss(model, other)[0] == _query_loss(model, questions)[0]


def test_frames_that_are_not_shown_do_not_matter(model, batch):
    single = dict(batch, shown_mask=batch["shown_mask"].copy())
    single["source"] = np.full_like(batch["source"], SOURCES.index("spatial"))
    single["shown_mask"][..., :2] = False
    moved = dict(single, shown=batch["shown"].copy())
    moved["shown"][..., :2] = (moved["shown"][..., :2] + 1) % 3
    one, two = (_query_loss(model, b)[1]["tokens"] for b in (single, moved))
    assert float(one) == pytest.approx(float(two), rel=1e-5)


def test_answers_can_weigh_more_than_thoughts(model, batch):
    even = _query_loss(model, batch)[1]
    heavy = _query_loss(model, batch, sft.SftConfig(answer_weight=1e6))[1]
    assert heavy["tokens"] == pytest.approx(heavy["answer_tokens"], rel=1e-3)
    assert abs(even["tokens"] - heavy["tokens"]) > 1e-3


def test_names_are_drawn_from_things_that_have_one(model, batch):
    scenes = sft.scenes_of(
        jax.tree.map(jnp.asarray, batch), jnp.zeros((4, 1), jnp.int32)
    )
    has_name = jnp.asarray(batch["name_mask"].any(-1)).at[0, 2:].set(False)
    for seed in range(5):
        which, asked = sft.choose_names(jax.random.key(seed), scenes, has_name, 3)
        assert not np.any(asked[0])
        assert np.all(asked[1:]) and np.all((which[1:] >= 2) & (which[1:] <= 6))
        assert all(len(set(row)) == 3 for row in np.asarray(which))


def test_prompts_lose_the_words_of_their_noun_and_no_others():
    batch = {
        "named": jnp.array([1, 2]),
        "name_ids": jnp.array([[[5, 6], [7, 8], [9, 0]], [[5, 6], [7, 8], [9, 0]]]),
        "name_mask": jnp.array([[[1, 1], [1, 1], [1, 0]]] * 2, bool),
        "prompt_ids": jnp.array([[[11, 7, 8, 0], [7, 9, 0, 0]], [[9, 7, 0, 0]] * 2]),
        "source": jnp.array([[0, 0], [0, 1]]) + SOURCES.index("progress"),
    }
    always = motion.without_nouns(batch, jax.random.key(0), 1.0)
    expected = [[[11, 1, 1, 0], [1, 9, 0, 0]], [[1, 7, 0, 0], [9, 7, 0, 0]]]
    np.testing.assert_array_equal(always, expected)
    never = motion.without_nouns(batch, jax.random.key(0), 0.0)
    np.testing.assert_array_equal(never, batch["prompt_ids"])
