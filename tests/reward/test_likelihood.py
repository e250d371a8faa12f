"""The compiled likelihood is what processor and model give on the host."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_readout import add_tokens, tiny_vlm

from soler1_jax.common.errors import UserError
from soler1_jax.data.qwen_processor import VideoFrames
from soler1_jax.model.config import HeadsConfig
from soler1_jax.reward import likelihood
from soler1_jax.reward.likelihood import LikelihoodSettings
from soler1_jax.tokenizers.readout_wording import ReadoutWording

SENTENCES = ["lift it", "open the upper drawer all the way"]
SETTINGS = LikelihoodSettings(frames=4, capacity=8)


@pytest.fixture
def vlm(qwen_folder):
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        path = qwen_folder / name
        data = json.loads(path.read_text())
        data["size"] = {"shortest_edge": 1024, "longest_edge": 1 << 20}
        path.write_text(json.dumps(data))
    return tiny_vlm(qwen_folder)


def _watch(rewarder, films):
    start, score = jax.jit(rewarder.start), jax.jit(rewarder.score)
    key = jax.random.key(0)
    text = rewarder.prepare(SENTENCES)
    state = first = start(rewarder.params, {"external": films[:, 0]}, text, key)
    verdicts = []
    for t in range(1, films.shape[1]):
        views = {"external": films[:, t]}
        state, verdict = score(rewarder.params, state, views, key, None)
        verdicts.append(verdict)
    return first, verdicts


def _on_the_host(vlm, frames, sentence, wording):
    """log P of the answer's last token after a video, its text made by the processor."""
    content = [{"type": "video"}, {"type": "text", "text": wording.ask(sentence)}]
    inputs = vlm.processor(
        [{"role": "user", "content": content}],
        videos=[VideoFrames(frames=frames, indices=range(len(frames)), source_fps=2.0)],
        add_generation_prompt=wording.closed,
        keep_video_wrapper=False,
    )
    text = inputs.text
    if not wording.closed:
        text = text[: text.rindex("<|im_end|>")]
    *ids, answer = vlm.tokenizer.encode(text + wording.answer)
    logits = vlm.logits(
        [ids],
        pixel_values_videos=inputs.video_patches,
        video_grid_thw=inputs.video_grids,
    )
    return jax.nn.log_softmax(logits[0, len(ids) - 1])[answer]


def _chosen(t):
    return np.rint(np.linspace(0, t, min(4, t + 1))).astype(int)


@pytest.mark.parametrize("closed", [False, True])
def test_a_query_reads_the_answer_after_the_video_so_far(vlm, closed):
    wording = ReadoutWording(
        readout="likelihood",
        question="Does it do this: {task}? It is",
        answer="True" if closed else " True",
        closed=closed,
    )
    vlm.__dict__["wording"] = wording
    rewarder = likelihood.make_likelihood_rewarder(vlm, "tiny", SETTINGS)
    films = np.random.default_rng(0).integers(0, 256, (2, 6, 40, 70, 3), np.uint8)
    first, verdicts = _watch(rewarder, films)
    every = np.array(
        [
            [
                _on_the_host(vlm, _even(films[b, _chosen(t)]), sentence, wording)
                for b, sentence in enumerate(SENTENCES)
            ]
            for t in range(6)
        ]
    )
    said = np.array([v.logprob for v in verdicts])
    np.testing.assert_allclose(first.lowest, every[0], atol=1e-4)
    np.testing.assert_allclose(said, every[1:], atol=1e-4)
    assert every.std(axis=0).min() > 1e-3, "queries differ"
    for t, verdict in enumerate(verdicts, 1):
        so_far = every[: t + 1]
        low, high = so_far.min(0), so_far.max(0)
        wanted = 100 * (every[t] - low) / (high - low)
        np.testing.assert_allclose(verdict.progress, wanted, atol=0.5)
    stacked = jax.tree.map(lambda *x: np.stack(x), *verdicts)
    for b in range(2):
        start, row = (
            jax.tree.map(lambda x, b=b: x[b], first),
            jax.tree.map(lambda x, b=b: x[:, b], stacked),
        )
        low, high = every[:, b].min(), every[:, b].max()
        wanted = 100 * (every[1:, b] - low) / (high - low)
        settled = rewarder.settle(start, row)
        np.testing.assert_allclose(settled, wanted, atol=0.5)


def _even(frames):
    """Whole patches, as qwen-vl-utils fills up a list of frames before it counts time."""
    return np.concatenate([frames, frames[-1:]]) if len(frames) % 2 else frames


def test_equal_likelihoods_are_all_the_highest():
    start = likelihood.Watched(None, None, np.float32(-2), np.float32(-2))

    class Said:
        logprob = np.full(3, -2, np.float32)

    np.testing.assert_array_equal(likelihood.settle(start, Said), [100, 100, 100])
    same = likelihood._percent(*[jnp.full(2, -2.0)] * 3, jnp)
    np.testing.assert_array_equal(same, [100, 100])


def test_what_cannot_be_read_is_refused(vlm, qwen_folder):
    with pytest.raises(UserError, match="multiple"):
        likelihood.make_likelihood_rewarder(
            vlm, "tiny", LikelihoodSettings(frames=5, capacity=8)
        )
    add_tokens(qwen_folder)
    with pytest.raises(UserError, match="heads in their place"):
        likelihood.make_likelihood_rewarder(
            tiny_vlm(qwen_folder, HeadsConfig()), "tiny", SETTINGS
        )
