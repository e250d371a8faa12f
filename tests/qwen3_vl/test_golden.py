"""Our model against what transformers computed on the same weights and prompts."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen3_vl_cases import (
    CASES,
    GOLDEN,
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
from soler1_jax.model.positions import IMAGE, VIDEO
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
    assert mask.sum(axis=1).max() >= 500
    assert ours.dtype == np.float32
    there = mask > 0
    chosen = sampled(mask)
    assert kl(golden[f"{name}/logits"], ours[chosen]).max() <= 1e-8
    best = golden[f"{name}/argmax"]
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


@pytest.mark.parametrize("name", CASES)
def test_vision(name: str, golden: dict) -> None:
    """Tokens and DeepStack levels of all images, before the decoder sees them."""
    model = _model(name)
    given = batch(_made(name))
    prompt, patches = make_prompt(model.config, **given)
    encode = jax.jit(Functional(model.config).encode_patches)
    features = encode(model.params, patches)
    source = prompt.source[prompt.ids == model.config.media.image]
    levels = [features.tokens, *jnp.moveaxis(features.deepstack, 1, 0)]
    ours = [np.asarray(x).reshape(-1, x.shape[-1])[source] for x in levels]
    np.testing.assert_allclose(ours, golden[f"{name}/vision"], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_positions(name: str, golden: dict) -> None:
    given = batch(_made(name), left=True)
    prompt, _ = make_prompt(CASES[name].config(), **given)
    length = given["input_ids"].shape[1]
    positions = prompt.positions[:, :, :length]
    np.testing.assert_array_equal(positions, golden[f"{name}/positions"])
    np.testing.assert_array_equal(prompt.next_position, golden[f"{name}/next"])


@pytest.mark.parametrize("name", ["grouped", "tied"])
def test_generation(name: str, golden: dict) -> None:
    """64 greedy tokens: with our cache, with theirs, and without any."""
    model, made = _model(name), _made(name)
    left = batch(made, left=True)
    written = model.generate(**left, length=STEPS)
    tokens = np.asarray(written.tokens)
    np.testing.assert_array_equal(tokens, golden[f"{name}/tokens"])
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


def test_words_alone_need_no_patches() -> None:
    made = _made("grouped")
    given = batch(made[1:2])
    assert "pixel_values" not in given
    _, patches = make_prompt(CASES["grouped"].config(), **given)
    assert patches is None
    alone = np.asarray(_model("grouped").logits(**given))[0]
    assert kl(_logits("grouped", False)[1, : len(alone)], alone).max() <= 1e-8


def test_unrolled_layers_and_exact_sizes_give_the_same() -> None:
    """Neither the padding to buckets nor the scan is part of the result."""
    name = "grouped"
    model = _model(name)
    config = dataclasses.replace(
        model.config,
        vision=dataclasses.replace(model.config.vision, scan_layers=False),
        text=dataclasses.replace(model.config.text, scan_layers=False, remat=False),
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


def test_square_frames_given_as_pixels_are_the_same_pictures() -> None:
    """The path of fixed-size frames and that of patches share weights and results."""
    case, model = CASES["grouped"], _model("grouped")
    vision = dataclasses.replace(model.config.vision, image_size=32)
    functions = Functional(dataclasses.replace(model.config, vision=vision))
    frames = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    fixed = jax.jit(functions.encode)(model.params, frames)
    # Patches as the processor cuts them: block and place within, channel, time, pixel.
    m, p = case.merge, case.patch
    cut = (frames / 127.5 - 1).reshape(2, 8 // m, m, p, 8 // m, m, p, 3)
    cut = cut.transpose(0, 1, 4, 2, 5, 7, 3, 6)[:, :, :, :, :, :, None]
    cut = np.repeat(cut, 2, axis=6).reshape(2 * 64, -1)
    ids = [[model.config.media.image] * 32]
    grid = np.array([[1, 8, 8], [1, 8, 8]])
    _, patches = make_prompt(model.config, ids, None, cut, grid)
    packed = jax.jit(functions.encode_patches)(model.params, patches)
    count = fixed.tokens.shape[1]
    np.testing.assert_allclose(packed.tokens[:2, :count], fixed.tokens, atol=1e-4)
    np.testing.assert_allclose(
        packed.deepstack[:2, :, :count], fixed.deepstack, atol=1e-4
    )


def test_kinds_are_told_apart() -> None:
    """The prompts hold what they are meant to hold."""
    first = _made("grouped")[0]
    media = CASES["grouped"].config().media
    assert len({tuple(grid) for grid in first.images}) == 2
    assert first.videos[0][0] > 1
    assert {IMAGE, VIDEO} == {1, 2}
    assert media.image in first.ids and media.video in first.ids
