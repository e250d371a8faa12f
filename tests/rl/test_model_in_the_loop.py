"""The video-language model inside the compiled iteration, not beside it."""

import jax
import numpy as np

from soler1_jax.model.functional import functional
from soler1_jax.model.presets import micro
from soler1_jax.reward.vlm import VLMSettings, make_rewarder
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import shapes_of
from soler1_jax.tokenizers.sentencepiece import train_tokenizer

EPISODE = ChunkConfig(every=2, queries=3)
SENTENCES = ["reach the dot", "leave the dot"]


def test_asking_the_model_neither_compiles_nor_leaves_the_device(
    toy_reach, compilations, tmp_path
):
    tokenizer = train_tokenizer(SENTENCES * 4, tmp_path / "t.model", 160)
    config = micro(tokenizer.vocab_size)
    params = functional(config, seed=3)[1]
    settings = VLMSettings(thought_budget=4, prompt_length=12)
    rewarder = make_rewarder(config, params, tokenizer, "tiny", settings)
    env = toy_reach()
    agent = make_drqv2(
        DrQConfig(worlds=4, updates=2, batch=8, capacity=2, hidden=8),
        shapes_of(env),
        EPISODE.steps,
    )
    loop = Trainer(env, rewarder, agent, EPISODE, jax.devices()[:1])
    state = loop.init([0])
    works = [loop.assign([i], [text]) for i, text in enumerate(SENTENCES)]
    state, _ = loop.learn(state, works[0])
    compilations.clear()
    with jax.transfer_guard("disallow"):
        state, outcome = loop.learn(state, works[1])
        state, _ = loop.watch(state, works[0])
    assert compilations == []
    record = jax.tree.map(lambda x: np.asarray(x[0]), outcome.record)
    assert record.parsed.all()
    assert record.tokens.shape == (3, 4, 4 + 9)
    assert record.frames["external"].shape == (4, 4, 16, 16, 3)
    # Learned from what the model said: the reward is its progress, interpolated.
    points = np.concatenate(
        [
            (0.5 * (a + b), b)
            for a, b in zip(record.predicted[:-1], record.predicted[1:], strict=True)
        ]
    )
    np.testing.assert_allclose(
        outcome.metrics["reward"][0], 0.01 * points.mean(), atol=1e-5
    )
    assert np.abs(record.predicted[1:] - record.true[1:]).max() > 1
