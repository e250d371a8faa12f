"""Our model against what transformers computed on the same weights and prompts."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from paligemma_cases import (
    CASES,
    GOLDEN,
    IMAGE,
    STEPS,
    Inputs,
    batch,
    kl,
    our_params,
    prompts,
    sampled,
    stored_weights,
)

from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.prompt import make_prompt
from soler1_jax.reward.pretrained import PretrainedVLM


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, np.ndarray]]:
    with np.load(GOLDEN) as stored:
        yield dict(stored)


@functools.cache
def _made(name: str) -> list[Inputs]:
    return prompts(CASES[name])


@functools.cache
def _model(name: str, dtype: str = "float32") -> PretrainedVLM:
    config = CASES[name].config(dtype)
    return PretrainedVLM(config, our_params(config, stored_weights(config)))


@functools.cache
def _logits(name: str, left: bool, dtype: str = "float32") -> np.ndarray:
    return np.asarray(_model(name, dtype).logits(**batch(_made(name), left=left)))


@pytest.mark.parametrize("name", CASES)
def test_logits(name: str, golden: dict) -> None:
    given = batch(_made(name))
    mask, ours = given["attention_mask"], _logits(name, False)
    assert mask.sum(axis=1).max() >= 300
    # The window matters: it is smaller than any prompt.
    assert mask.sum(axis=1).min() > 3 * CASES[name].window
    assert ours.dtype == np.float32
    assert kl(golden[f"{name}/logits"], ours[sampled(mask)]).max() <= 1e-8
    best, there = golden[f"{name}/argmax"], mask > 0
    np.testing.assert_array_equal(ours.argmax(-1)[there], best[there])


@pytest.mark.parametrize("name", ["grouped", "deep"])
def test_logits_in_bfloat16(name: str, golden: dict) -> None:
    mask = batch(_made(name))["attention_mask"]
    ours = _logits(name, False, "bfloat16")
    assert ours.dtype == np.float32
    assert kl(golden[f"{name}/logits"], ours[sampled(mask)]).max() <= 0.03


def test_padding_changes_nothing() -> None:
    """Left, right and no padding, alone or with others, give the same logits."""
    name = "grouped"
    made = _made(name)
    right, left = (_logits(name, side) for side in (False, True))
    for row, prompt in enumerate(made):
        count = len(prompt.ids)
        alone = np.asarray(_model(name).logits(**batch([prompt])))[0]
        assert kl(alone, right[row, :count]).max() <= 1e-8
        assert kl(alone, left[row, -count:]).max() <= 1e-8


@pytest.mark.parametrize("name", ["grouped", "released-head"])
def test_vision(name: str, golden: dict) -> None:
    """The pictures' tokens, before the decoder sees them."""
    model = _model(name)
    given = batch(_made(name))
    prompt, patches = make_prompt(model.config, **given)
    features = jax.jit(Functional(model.config).encode_patches)(model.params, patches)
    tokens = np.asarray(features.tokens).reshape(-1, features.tokens.shape[-1])
    ours = tokens[prompt.source[prompt.ids == IMAGE]]
    ours = ours.reshape(-1, CASES[name].grid ** 2, ours.shape[-1])[:, ::9]
    np.testing.assert_allclose(ours, golden[f"{name}/vision"], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["grouped", "all-sliding"])
def test_generation(name: str, golden: dict) -> None:
    """64 greedy tokens: with our cache, with theirs, and without any."""
    model, made = _model(name), _made(name)
    left = batch(made, left=True)
    written = model.generate(**left, length=STEPS)
    tokens = np.asarray(written.tokens)
    np.testing.assert_array_equal(tokens, golden[f"{name}/tokens"])
    assert len(np.unique(tokens)) > 20
    right = model.generate(**batch(made), length=STEPS)
    np.testing.assert_array_equal(right.tokens, tokens)
    full = np.asarray(_teacher_forced(model, left, tokens))
    np.testing.assert_array_equal(full.argmax(-1), tokens)
    chosen = np.take_along_axis(full, tokens[..., None], axis=2)[..., 0]
    logprobs = chosen - jax.scipy.special.logsumexp(full, axis=2)
    np.testing.assert_allclose(written.logprobs, logprobs, atol=1e-3)


def _teacher_forced(
    model: PretrainedVLM, given: dict[str, np.ndarray], tokens: np.ndarray
) -> jax.Array:
    """One pass over prompts and completions: what predicts each token, [B, S, V]."""
    functions = Functional(model.config)
    prompt, patches = make_prompt(model.config, **given)

    @jax.jit
    def run(params: Params) -> jax.Array:
        vlm = functions.module(params)
        prefix = vlm.mix(prompt, vlm.encode_patches(patches))
        return vlm.logits(prefix, tokens, np.ones(tokens.shape, bool)).logits

    return run(model.params)


def test_unrolled_layers_and_exact_sizes_give_the_same() -> None:
    """Neither the padding to buckets nor the scan is part of the result."""
    name = "grouped"
    config = _model(name).config
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, scan_layers=False),
        text=dataclasses.replace(config.text, scan_layers=False, remat=False),
    )
    params = our_params(config, stored_weights(config))
    functions = Functional(config)
    given = batch(_made(name))
    prompt, patches = make_prompt(config, **given, exact=True)
    features = jax.jit(functions.encode_patches)(params, patches)
    prefix = jax.jit(functions.mix)(params, prompt, features)
    ours = jax.jit(functions.prompt_logits)(params, prefix)
    there = given["attention_mask"] > 0
    assert kl(_logits(name, False)[there], ours[there]).max() <= 1e-8


def test_frames_before_a_prompt_are_the_same_prompt() -> None:
    """Frames on the accelerator and the processor's arrays meet in one prefix."""
    case, model = CASES["grouped"], _model("grouped")
    functions, side = Functional(model.config), case.grid * case.patch
    draw = np.random.RandomState(0)
    frames = draw.randint(0, 256, (2, side, side, 3)).astype(np.uint8)
    words = draw.randint(3, IMAGE, (1, 40))
    ids = np.concatenate([np.full((1, 2 * case.grid**2), IMAGE), words], axis=1)
    pixels = (frames / 127.5 - 1).transpose(0, 3, 1, 2)

    @jax.jit
    def run(params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        vlm = functions.module(params)
        features = vlm.encode(frames)
        grounded = [
            vlm.ground(jax.tree.map(lambda x, i=i: x[i : i + 1], features), words, None)
            for i in range(2)
        ]
        prefix = vlm.prefix(grounded, words, np.ones(words.shape, bool))
        return vlm.prompt_logits(prefix), prefix.positions, prefix.next_position

    logits, positions, following = run(model.params)
    mixed = model.logits(ids, pixel_values=pixels)
    assert kl(mixed, logits).max() <= 1e-8
    prompt, _ = make_prompt(model.config, ids, pixel_values=pixels, exact=True)
    np.testing.assert_array_equal(prompt.positions, positions)
    np.testing.assert_array_equal(prompt.next_position, following)
    # Counted from 1.
    np.testing.assert_array_equal(positions[0, 0], 1 + np.arange(ids.shape[1]))
