"""The compiled read-out says what processor, trunk and heads say on the host."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_readout import add_tokens, tiny_vlm

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import bin_centers
from soler1_jax.model.config import HeadsConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.heads import progress_shares
from soler1_jax.model.prompt import make_prompt
from soler1_jax.reward import robometer
from soler1_jax.reward.watching import WatchSettings, fit
from soler1_jax.tokenizers.readout_wording import ReadoutWording

SENTENCES = ["lift it", "open the upper drawer all the way"]
SETTINGS = WatchSettings(frames=3, capacity=8)


@pytest.fixture
def vlm(qwen_folder):
    add_tokens(qwen_folder)
    return tiny_vlm(qwen_folder, HeadsConfig())


def _films(frames, size=(40, 70), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2, frames, *size, 3), np.uint8)


def _watch(rewarder, films):
    start, score = jax.jit(rewarder.start), jax.jit(rewarder.score)
    key = jax.random.key(0)
    text = rewarder.prepare(SENTENCES)
    state = start(rewarder.params, {"external": films[:, 0]}, text, key)
    verdicts = []
    for t in range(1, films.shape[1]):
        views = {"external": films[:, t]}
        state, verdict = score(rewarder.params, state, views, key, None)
        verdicts.append(verdict)
    return verdicts


def _on_the_host(vlm, frames, sentence, wording=robometer.DEFAULT_WORDING):
    """Progress in percent and success at every frame of one clip."""
    content = [{"type": "text", "text": wording.ask(sentence)}]
    for _ in frames:
        content += [{"type": "image"}, {"type": "text", "text": robometer.MARKER}]
    processor = dataclasses.replace(vlm.processor, image=robometer.picture_config(vlm))
    inputs = processor(
        [{"role": "user", "content": content}],
        list(frames),
        add_generation_prompt=False,
        add_vision_id=True,
    )
    assert inputs.text.count("Picture") == len(frames)
    prompt, patches = make_prompt(
        vlm.config,
        inputs.ids[None],
        pixel_values=inputs.image_patches,
        image_grid_thw=inputs.image_grids,
    )
    places = np.flatnonzero(inputs.ids == vlm.tokenizer.token_id(robometer.MARKER))
    model = Functional(vlm.config).module(vlm.params)
    prefix = model.mix(prompt, model.encode_patches(patches))
    said = model.heads(model.hidden_at(prefix, places[None])[0])
    shares, values = progress_shares(said.progress)
    return 100 * shares @ values, jax.nn.sigmoid(said.success)


@pytest.mark.slow
def test_a_query_reads_the_last_of_the_frames_so_far(vlm):
    rewarder = robometer.make_robometer(vlm, "tiny", SETTINGS)
    films = _films(4)
    verdicts = _watch(rewarder, films)
    for t, verdict in enumerate(verdicts, 1):
        chosen = np.rint(np.linspace(0, t, min(3, t + 1))).astype(int)
        for b, sentence in enumerate(SENTENCES):
            progress, success = _on_the_host(vlm, films[b, chosen], sentence)
            np.testing.assert_allclose(verdict.progress[b], progress[-1], atol=1e-3)
            np.testing.assert_allclose(verdict.success[b], success[-1], atol=1e-5)
        np.testing.assert_allclose(verdict.distribution.sum(-1), 1, atol=1e-5)
        mean = verdict.distribution @ bin_centers()
        np.testing.assert_allclose(mean, verdict.expected, atol=1e-3)
        np.testing.assert_allclose(verdict.expected, verdict.progress, atol=1e-3)
        assert np.all(verdict.entropy > 1), "ten bins are spread over"
        assert verdict.parsed.all() and verdict.tokens.shape == (2, 0)
    said = np.array([v.progress for v in verdicts])
    assert said.std(axis=0).min() > 0.01, "queries differ"


def test_words_and_settings_of_a_checkpoint_are_used(vlm):
    words = ReadoutWording(readout="heads", question="{task}?")
    vlm.__dict__["wording"] = words
    rewarder = robometer.make_robometer(vlm, "tiny", SETTINGS)
    films = _films(2)
    (verdict,) = _watch(rewarder, films)
    for b, sentence in enumerate(SENTENCES):
        progress, _ = _on_the_host(vlm, films[b], sentence, words)
        np.testing.assert_allclose(verdict.progress[b], progress[-1], atol=1e-3)


def test_frames_of_a_video_are_reduced_and_never_enlarged():
    rewarder_side = WatchSettings().short_side
    wide = np.zeros((2, 480, 640, 3), np.uint8)
    assert fit(wide, rewarder_side).shape == (2, 240, 320, 3)
    small = np.zeros((2, 100, 90, 3), np.uint8)
    assert fit(small, rewarder_side) is small


def test_what_cannot_be_read_is_refused(vlm, qwen_folder, tmp_path):
    plain = tiny_vlm(qwen_folder)
    with pytest.raises(UserError, match="has none"):
        robometer.make_robometer(plain, "plain")
    vlm.__dict__["wording"] = ReadoutWording(readout="likelihood", question="{task}")
    with pytest.raises(UserError, match="another read-out"):
        robometer.make_robometer(vlm, "tiny")
    vlm.__dict__["wording"] = None
    rewarder = robometer.make_robometer(vlm, "tiny", SETTINGS)
    with pytest.raises(UserError, match="special tokens"):
        rewarder.prepare(["lift <|vision_start|>"])
    for wrong in ({"view": "both"}, {"capacity": 7}, {"frames": 0}, {"capacity": 4}):
        with pytest.raises(UserError):
            WatchSettings(**wrong)


def test_a_tokenizer_without_the_marker_is_refused(qwen_folder):
    with pytest.raises(UserError, match="prog_token"):
        robometer.make_robometer(tiny_vlm(qwen_folder, HeadsConfig()), "tiny")
