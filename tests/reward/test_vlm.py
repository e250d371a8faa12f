"""The model as rewarder: what it remembers, what it depends on, how it is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.checkpoints.store import save_model
from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import bin_centers
from soler1_jax.model.functional import functional
from soler1_jax.model.presets import micro
from soler1_jax.model.vlm import VLM
from soler1_jax.reward.load import load_rewarder
from soler1_jax.reward.vlm import VLMSettings, make_rewarder
from soler1_jax.tokenizers.sentencepiece import train_tokenizer

SENTENCES = ["lift the red cube", "open the drawer"]
BUDGET = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Configuration, weights and tokenizer of a tiny untrained model."""
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    tokenizer = train_tokenizer(SENTENCES * 4, path, 160)
    config = micro(tokenizer.vocab_size)
    return config, functional(config, seed=3)[1], tokenizer


@pytest.fixture(scope="module")
def watch(model):
    """(frames [Q+1, B, ...], readout, seed) -> rewarder, state, verdicts [Q, B].

    Each read-out is compiled once.
    """
    runs = {}

    def make(readout):
        settings = VLMSettings(readout=readout, thought_budget=BUDGET, prompt_length=12)
        rewarder = make_rewarder(*model, "tiny", settings)
        text = jax.tree.map(jnp.asarray, rewarder.prepare(SENTENCES))

        def run(params, frames, key):
            keys = jax.random.split(key, len(frames))
            state = rewarder.start(params, {"external": frames[0]}, text, keys[0])

            def ask(state, now):
                frame, key = now
                return rewarder.score(params, state, {"external": frame}, key, None)

            return jax.lax.scan(ask, state, (frames[1:], keys[1:]))

        return rewarder, jax.jit(run)

    def watch(frames, readout="greedy", seed=0):
        if readout not in runs:
            runs[readout] = make(readout)
        rewarder, run = runs[readout]
        return rewarder, *run(rewarder.params, frames, jax.random.key(seed))

    return watch


@pytest.fixture(scope="module")
def frames():
    shape = (4, 2, 16, 16, 3)
    return jax.random.randint(jax.random.key(5), shape, 0, 255).astype(jnp.uint8)


def test_every_answer_parses_and_reads_back(watch, frames):
    rewarder, _, verdicts = watch(frames)
    assert bool(verdicts.parsed.all())
    assert verdicts.tokens.shape == (3, 2, BUDGET + 9)
    for tokens, progress in zip(
        verdicts.tokens.reshape(6, -1), verdicts.progress.ravel(), strict=True
    ):
        text = rewarder.decode(np.asarray(tokens))
        assert text.endswith(f"<answer>{int(progress):+04d}</answer>")
    np.testing.assert_allclose(verdicts.distribution.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        verdicts.expected, verdicts.distribution @ bin_centers(), rtol=1e-5
    )
    assert (np.abs(verdicts.progress) <= 100).all()


def test_expected_readout_is_the_mean_of_the_value_head(watch, frames):
    _, _, verdicts = watch(frames, "expected")
    np.testing.assert_array_equal(verdicts.progress, verdicts.expected)


def test_a_glance_is_read_before_the_thought(watch, frames):
    _, _, glance = watch(frames, "glance")
    _, _, expected = watch(frames, "expected")
    np.testing.assert_array_equal(glance.progress, glance.expected)
    np.testing.assert_array_equal(glance.tokens, expected.tokens)
    assert np.abs(glance.progress - expected.progress).max() > 1e-3


def test_caution_takes_off_what_the_answer_is_unsure_by(model, frames):
    said = {}
    for caution in (0.0, 1.5):
        settings = VLMSettings(caution=caution, thought_budget=BUDGET, prompt_length=12)
        rewarder = make_rewarder(*model, "tiny", settings)
        text, key = rewarder.prepare(SENTENCES), jax.random.key(0)
        views = {"external": frames[0]}
        state = rewarder.start(rewarder.params, views, text, key)
        _, said[caution] = rewarder.score(rewarder.params, state, views, key, None)
    plain, careful = said[0.0], said[1.5]
    np.testing.assert_array_equal(careful.expected, plain.progress)
    odds, mean = np.asarray(plain.distribution), np.asarray(plain.expected)
    squares = (np.asarray(bin_centers()) - mean[:, None]) ** 2
    spread = np.sqrt((odds * squares).sum(1))
    assert spread.min() > 1
    lowered = np.maximum(mean - 1.5 * spread, -100)
    np.testing.assert_allclose(careful.progress, lowered, atol=1e-3)


def test_a_question_is_read_once_for_glance_and_thought(model, monkeypatch):
    # Traced twice it is computed twice in a loop, about a quarter of a query's time.
    settings = VLMSettings(readout="glance", thought_budget=BUDGET, prompt_length=12)
    rewarder = make_rewarder(*model, "tiny", settings)
    text = rewarder.prepare(SENTENCES)
    seen, prefill = [], VLM.prefill

    def counted(self, *args, **kwargs):
        seen.append(prefill(self, *args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(VLM, "prefill", counted)
    size, key = rewarder.image_size, jax.random.key(0)
    views = {"external": jnp.zeros((len(SENTENCES), size, size, 3), jnp.uint8)}
    state = rewarder.start(rewarder.params, views, text, key)
    _, verdict = rewarder.score(rewarder.params, state, views, key, None)
    [(_, step, _)] = seen
    values = jax.nn.softmax(step.value_logits) @ bin_centers()
    np.testing.assert_allclose(verdict.progress, values, atol=1e-4)


def test_only_sampling_depends_on_the_key(watch, frames):
    tokens = {
        (readout, seed): np.asarray(watch(frames, readout, seed)[2].tokens)
        for readout in ("greedy", "sampled")
        for seed in (0, 1)
    }
    np.testing.assert_array_equal(tokens["greedy", 0], tokens["greedy", 1])
    assert (tokens["sampled", 0] != tokens["sampled", 1]).any()


def test_the_current_frame_becomes_the_previous_one(watch, frames):
    _, state, _ = watch(frames)
    _, short, _ = watch(frames[jnp.array([0, 3, 3, 3])])
    # The same first and last frame: memory holds nothing else.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, short)
    _, other, _ = watch(frames[jnp.array([0, 1, 2, 2])])
    assert not np.allclose(state.previous.tokens, other.previous.tokens)
    np.testing.assert_allclose(state.first.tokens, other.first.tokens, atol=1e-5)


def test_a_model_folder_is_loaded_as_it_was_saved(model, tmp_path):
    save_model(tmp_path / "m", *model, {}, dtype="float32")
    settings = VLMSettings(readout="greedy", thought_budget=BUDGET, prompt_length=12)
    loaded = load_rewarder(str(tmp_path / "m"), settings)
    made = make_rewarder(*model, "tiny", settings)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, made.params)
    assert loaded.image_size == 16 and loaded.views == ("external", "wrist")
    assert not loaded.uses_truth


def test_sentences_that_cannot_be_asked_are_refused(model):
    rewarder = make_rewarder(*model, "tiny", VLMSettings(prompt_length=6))
    with pytest.raises(UserError, match="a task is a sentence"):
        rewarder.prepare([" . "])
    with pytest.raises(UserError, match="6 tokens"):
        rewarder.prepare(["lift the red cube and then open the drawer again"])


def test_the_wrist_view_is_looked_at_if_there_is_one(model):
    settings = VLMSettings(readout="glance", thought_budget=BUDGET, prompt_length=12)
    rewarder = make_rewarder(*model, "tiny", settings)
    text, key = rewarder.prepare(SENTENCES), jax.random.key(0)
    frames = jax.random.randint(key, (3, 2, 16, 16, 3), 0, 256).astype(jnp.uint8)

    @jax.jit
    def ask(first, now):
        state = rewarder.start(rewarder.params, first, text, key)
        return rewarder.score(rewarder.params, state, now, key, None)[1].progress

    seen = {"external": frames[0]}
    both = [seen | {"wrist": wrist} for wrist in frames[1:]]
    alone = ask(seen, seen)
    assert np.isfinite(alone).all()
    assert (ask(both[0], both[1]) != ask(both[0], both[0])).all()
    assert (ask(both[0], both[0]) != alone).all()


def test_a_model_that_is_told_its_last_answer_depends_on_it(model, frames):
    settings = VLMSettings(
        readout="expected", thought_budget=BUDGET, prompt_length=24, show_previous=True
    )
    rewarder = make_rewarder(*model, "told", settings)
    text = jax.tree.map(jnp.asarray, rewarder.prepare(SENTENCES))
    key = jax.random.key(0)
    state = rewarder.start(rewarder.params, {"external": frames[0]}, text, key)
    np.testing.assert_array_equal(state.previous_progress, 0)
    ask = jax.jit(
        lambda state: rewarder.score(
            rewarder.params, state, {"external": frames[1]}, key, None
        )
    )
    after, verdict = ask(state)
    np.testing.assert_array_equal(after.previous_progress, verdict.progress)
    told = state._replace(previous_progress=jnp.array([80.0, -35.0]))
    assert np.abs(ask(told)[1].progress - verdict.progress).min() > 1e-4
