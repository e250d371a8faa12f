"""Reinforcement learning from verifiable rewards on a tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.data.batches import dataset
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.tokenizers.sentencepiece import Tokenizer
from soler1_jax.training import curriculum, grpo, optimizer, rlvr, state, supervise

GROUP = 6


@pytest.fixture(scope="module")
def parts(episodes, data_folder):
    """Everything that a step needs."""
    tokenizer = Tokenizer(data_folder / "tokenizer.model")
    functions = Functional(preset("micro", tokenizer.vocab_size))
    words = supervise.Words(tokenizer)
    plan = curriculum.CurriculumConfig(
        episodes=2,
        queries=2,
        patch=4,
        wrist_patch=8,
        mixture=curriculum.MIXTURES["progress"],
        **curriculum.lengths(episodes, words, 0.0),
    )
    batch = dataset(episodes, words, plan.batch("progress"), seed=0)[0]
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    config = rlvr.RlvrConfig(
        grpo=grpo.GrpoConfig(group=GROUP, temperature=1.0, top_p=1.0), updates=2
    )
    grammar = progress_grammar(tokenizer.vocab_size, 6)
    sampling = rlvr.sampling_of(config.grpo, grammar)
    rate = optimizer.OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    tx = optimizer.make_optimizer(rate, optimizer.schedule(rate, 200))
    sample = rlvr.make_sampler(functions.module, sampling, GROUP)
    update = rlvr.make_update(
        functions.module, tx, config, sampling, lambda *_: (0.0, {})
    )
    params = jax.jit(functions.init, static_argnums=0)(0)
    return batch, sample, update, state.create(params, tx, 0), tokenizer, config


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


def test_samples_differ_within_a_group_and_always_parse(parts):
    batch, sample, _, first, tokenizer, _ = parts
    tokens, logprobs = sample(first, batch)
    assert tokens.shape[0] == 2 * 2 * GROUP == logprobs.shape[0]
    texts = [tokenizer.decode(row) for row in np.asarray(tokens)]
    assert all("</think><answer>" in t and t.endswith("</answer>") for t in texts)
    assert len(set(texts)) > len(texts) // 2
    assert np.all(np.asarray(logprobs) <= 1e-6)
    again, _ = sample(first, batch)
    np.testing.assert_array_equal(tokens, again)
    later, _ = sample(first.replace(step=jnp.int32(1)), batch)
    assert not np.array_equal(tokens, later)


@pytest.mark.slow
def test_an_update_makes_rewarded_completions_likelier(parts):
    batch, sample, update, first, _, _ = parts
    tokens, sampled = sample(first, batch)
    minus = (np.asarray(tokens) == 10).any(1).reshape(-1, GROUP)
    earned = jnp.asarray(minus, jnp.float32)
    current = _copy(first)
    for _ in range(3):
        current, metrics = update(current, batch, tokens, sampled, earned)
    assert int(current.step) == 3, "two updates of one batch are one step"
    assert np.isfinite(float(metrics["loss"])) and 0 <= float(metrics["clipped"]) <= 1
    again, _ = sample(current.replace(step=first.step), batch)
    after = (np.asarray(again) == 10).any(1)
    mixed = np.repeat((minus.std(1) > 0), GROUP)
    assert after[mixed].mean() > minus.reshape(-1)[mixed].mean()


def test_equal_rewards_leave_the_model_alone(parts):
    batch, sample, update, first, _, _ = parts
    tokens, sampled = sample(first, batch)
    current, _ = update(
        _copy(first), batch, tokens, sampled, jnp.ones((4, GROUP), jnp.float32)
    )
    before, after = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params) if x.ndim < 2])
        for s in (first, current)
    )
    np.testing.assert_array_equal(before, after)


def test_a_step_grades_what_the_model_wrote(parts):
    batch, sample, update, first, tokenizer, config = parts
    step = rlvr.make_step(sample, update, tokenizer.decode, config)
    current, metrics = step(_copy(first), batch)
    assert metrics["reward_form"] == pytest.approx(0.5), "the grammar sees to that"
    assert 0 < metrics["reward_total"] <= 2.5
    total = sum(metrics[f"reward_{n}"] for n in ("form", "accuracy", "claims"))
    assert metrics["reward_total"] == pytest.approx(total, rel=1e-5)
    assert int(current.step) == 1
