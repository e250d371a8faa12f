"""A Qwen3-VL as rewarder: the compiled path against processor, tokenizer and text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_readout import tiny_vlm

from soler1_jax.common.errors import UserError
from soler1_jax.model.prompt import make_prompt
from soler1_jax.reward import composite, question, sole
from soler1_jax.sampling.unconstrained import Written

SENTENCES = ["lift the red cube", "open the drawer all the way"]
BUDGET = 6


@pytest.fixture
def vlm(qwen_folder):
    return tiny_vlm(qwen_folder)


def _films(rng, views=("external", "wrist"), frames=3):
    side = composite.TILE
    return {
        v: rng.integers(0, 256, (2, frames, side, side, 3), np.uint8) for v in views
    }


def _at(films, t):
    return {view: frames[:, t] for view, frames in films.items()}


def _watch(rewarder, films, queries=2):
    text = rewarder.prepare(SENTENCES)
    start, score = jax.jit(rewarder.start), jax.jit(rewarder.score)
    key = jax.random.key(0)
    state = start(rewarder.params, _at(films, 0), text, key)
    verdicts, states = [], [state]
    for t in range(1, queries + 1):
        state, verdict = score(rewarder.params, state, _at(films, t), key, None)
        verdicts.append(verdict)
        states.append(state)
    return states, verdicts


def _asked(vlm, sentence, previous, wording=sole.DEFAULT_WORDING):
    words = wording.question("external_and_wrist", sentence, previous)
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return [{"role": "user", "content": content}]


def test_the_compiled_loop_writes_what_processor_and_model_write(vlm):
    films = _films(np.random.default_rng(0))
    settings = sole.SoleSettings(budget=BUDGET)
    rewarder = sole.make_sole_rewarder(vlm, "tiny", settings)
    assert rewarder.views == ("external", "wrist")
    _, verdicts = _watch(rewarder, films)
    for t, verdict in enumerate(verdicts, 1):
        parts = (_at(films, 0), _at(films, t - 1), _at(films, t))
        pictures = composite.as_stored(composite.compose(*parts))
        for b, sentence in enumerate(SENTENCES):
            # A random model states no number, so 0 stays what was stated before.
            messages = _asked(vlm, sentence, "0")
            inputs = vlm.processor(messages, [pictures[b]])
            written = vlm.generate(
                inputs.ids[None],
                pixel_values=inputs.image_patches,
                image_grid_thw=inputs.image_grids,
                length=BUDGET,
            )
            np.testing.assert_array_equal(verdict.tokens[b], written.tokens[0])
        assert not verdict.parsed.any() and not verdict.progress.any()


def test_a_stated_number_goes_into_the_next_question(vlm, monkeypatch):
    said = ["<answer>35%</answer>", "no number"]
    rows = [vlm.tokenizer.encode(text) for text in said]
    length = max(map(len, rows))
    tokens = np.array([ids + [0] * (length - len(ids)) for ids in rows], np.int32)
    seen = []

    def write(model, prefix, key, **settings):
        seen.append(prefix)
        counts = jnp.array([len(ids) for ids in rows])
        return Written(jnp.asarray(tokens), counts, jnp.zeros(tokens.shape))

    monkeypatch.setattr(sole, "write", write)
    rewarder = sole.make_sole_rewarder(vlm, "tiny")
    with jax.disable_jit():
        states, verdicts = _watch(rewarder, _films(np.random.default_rng(1)))
    np.testing.assert_array_equal(verdicts[0].progress, [35, 0])
    np.testing.assert_array_equal(verdicts[0].parsed, [True, False])
    np.testing.assert_array_equal(states[1].previous_progress, [35, 0])
    embeds = [np.asarray(p.embeds)[np.asarray(p.mask)] for p in seen]
    assert embeds[0].shape[0] + 1 == embeds[1].shape[0], "35 is a token longer than 0"


def test_every_percent_is_asked_as_its_own_text_would_be(vlm):
    settings = sole.SoleSettings(views="external")
    rewarder = sole.make_sole_rewarder(vlm, "tiny", settings)
    asked = rewarder.prepare(SENTENCES)
    again = rewarder.prepare([*SENTENCES, SENTENCES[0]])
    for one, three in zip(*map(jax.tree.leaves, (asked, again)), strict=True):
        np.testing.assert_array_equal(three, one[np.array([0, 1, 0])])
    size = composite.stored_size(*composite.picture_size(1, 3))
    grid = sole.image_grid(*size, vlm.processor.image)
    for percent in (-100, -37, 0, 5, 80, 100):
        told = jnp.full(2, percent, jnp.float32)
        got = question.fill(asked, told, capacity=1000)
        for b, sentence in enumerate(SENTENCES):
            words = sole.DEFAULT_WORDING.question("external", sentence, str(percent))
            ids = sole._encoded(vlm, None, words, grid)
            picture = np.zeros((int(np.prod(grid)), 3 * 2 * 16 * 16), np.float32)
            want, _ = make_prompt(
                vlm.config, [ids], pixel_values=picture, image_grid_thw=[grid]
            )
            mask, wanted = np.asarray(got.mask[b]), np.asarray(want.mask[0])
            for field in ("ids", "positions"):
                mine = np.asarray(getattr(got, field)[b])[..., mask]
                theirs = np.asarray(getattr(want, field)[0])[..., wanted]
                np.testing.assert_array_equal(mine, theirs)
            source = np.asarray(got.source[b])[mask]
            mine = np.where(source >= 0, source - 1000 * b, -1)
            np.testing.assert_array_equal(mine, np.asarray(want.source[0])[wanted])
            assert int(got.next_position[b]) == int(want.next_position[0])
            assert int(got.ids[b, got.last[b]]) == ids[-1]


def test_from_zero_shows_and_tells_nothing_of_before(vlm, tmp_path):
    wording = dataclasses.replace(
        sole.DEFAULT_WORDING, templates={"external_from_zero": "{task}? <answer>"}
    )
    vlm.__dict__["wording"] = wording
    settings = sole.SoleSettings(views="external", from_zero=True, budget=2)
    rewarder = sole.make_sole_rewarder(vlm, "tiny", settings)
    films = _films(np.random.default_rng(2), ("external",))
    _, before = _watch(rewarder, films)
    films["external"][:, 1] = 0
    _, after = _watch(rewarder, films)
    np.testing.assert_array_equal(before[1].logprob, after[1].logprob)
    assert (before[0].logprob != after[0].logprob).any()
    other = sole.make_sole_rewarder(vlm, "tiny", sole.SoleSettings())
    with pytest.raises(UserError, match="external_from_zero"):
        other.prepare(SENTENCES)


def test_unknown_views_are_refused():
    with pytest.raises(UserError, match="external_and_wrist"):
        sole.SoleSettings(views="both")
