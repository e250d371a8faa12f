"""Reinforcement learning from verifiable rewards on a tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.data.batches import dataset
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.tokenizers import sentencepiece as sp
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
        grpo=grpo.GrpoConfig(group=GROUP, temperature=0.8, top_p=1.0), updates=2
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


@pytest.fixture(scope="module")
def update_of(parts):
    """Makes the update of another objective."""
    tokenizer = parts[4]
    functions = Functional(preset("micro", tokenizer.vocab_size))
    grammar = progress_grammar(tokenizer.vocab_size, 6)
    rate = optimizer.OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    tx = optimizer.make_optimizer(rate, optimizer.schedule(rate, 200))

    def make(objective):
        return rlvr.make_update(
            functions.module,
            tx,
            rlvr.RlvrConfig(grpo=objective),
            rlvr.sampling_of(objective, grammar),
            lambda *_: (0.0, {}),
        )

    return make


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
    assert np.any(np.asarray(logprobs) < 0)
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


def _vectors(state):
    """Norms and biases, which weight decay leaves alone."""
    leaves = jax.tree.leaves(state.params)
    return np.concatenate([np.ravel(x) for x in leaves if x.ndim < 2])


def test_equal_rewards_leave_the_model_alone(parts):
    batch, sample, update, first, _, _ = parts
    tokens, sampled = sample(first, batch)
    current, metrics = update(
        _copy(first), batch, tokens, sampled, jnp.ones((4, GROUP), jnp.float32)
    )
    np.testing.assert_array_equal(_vectors(first), _vectors(current))
    assert float(metrics["equal_groups"]) == 1


def test_sampler_and_model_agree_and_a_disagreement_is_seen(parts):
    batch, sample, update, first, _, _ = parts
    tokens, sampled = sample(first, batch)
    earned = jnp.asarray(np.random.default_rng(0).normal(size=(4, GROUP)))
    _, metrics = update(_copy(first), batch, tokens, sampled, earned)
    assert float(metrics["mismatch"]) < 1e-5
    assert 1 <= float(metrics["mismatch_ratio"]) < 1.0001
    off = sampled.at[0, 1].add(-0.5)
    _, metrics = update(_copy(first), batch, tokens, off, earned)
    assert float(metrics["mismatch_ratio"]) == pytest.approx(np.exp(0.5), rel=1e-3)


@pytest.mark.slow
def test_tokens_that_the_model_finds_far_likelier_are_not_trusted(parts, update_of):
    batch, sample, _, first, _, _ = parts
    update = update_of(
        grpo.GrpoConfig(group=GROUP, temperature=0.8, correction="token_mask")
    )
    tokens, sampled = sample(first, batch)
    earned = jnp.asarray(np.random.default_rng(0).normal(size=(4, GROUP)))
    trusted, _ = update(_copy(first), batch, tokens, sampled, earned)
    doubted, _ = update(_copy(first), batch, tokens, sampled - 2.0, earned)
    assert np.any(_vectors(first) != _vectors(trusted))
    np.testing.assert_array_equal(_vectors(first), _vectors(doubted))


def test_what_the_grammar_forced_is_not_chosen_and_cut_thoughts_are_counted():
    zero = sp.FIRST_DIGIT
    ended = [sp.THINK, 21, 22, sp.END_THINK, sp.ANSWER, sp.PLUS, zero, zero + 2, zero]
    cut = [sp.THINK, *range(21, 27), sp.END_THINK, sp.ANSWER, sp.MINUS]
    cut += [zero + 1, zero, zero]
    grammar = progress_grammar(40, 6)
    tokens = np.zeros((4, grammar.length), np.int32)
    for i, words in enumerate((ended, cut, ended, ended)):
        words = [*words, sp.END_ANSWER, sp.EOS]
        tokens[i, : len(words)] = words
    earned = jnp.array([[0.0, 1.0], [2.0, 2.0]])
    config = grpo.GrpoConfig(group=2, mask_truncated=True, drop_equal=True)
    marks, told = rlvr._mark(jnp.asarray(tokens), earned, config, grammar)
    places = [list(np.flatnonzero(row)) for row in np.asarray(marks.chosen)]
    # the end of the thought is chosen unless its budget is used up; 100 leaves no choice
    assert places[0] == [1, 2, 3, 5, 6, 7, 8]
    assert places[1] == [1, 2, 3, 4, 5, 6, 9, 10]
    np.testing.assert_array_equal(
        marks.counted, np.asarray(marks.chosen) * [[True], [False], [True], [True]]
    )
    np.testing.assert_array_equal(marks.kept, [True, True, False, False])
    assert float(told["truncated"]) == 1 / 4
    assert float(told["truncated_tokens"]) == pytest.approx(8 / (3 * 7 + 8))
    assert float(told["equal_groups"]) == 1 / 2


def test_a_step_grades_what_the_model_wrote(parts):
    batch, sample, update, first, tokenizer, config = parts
    step = rlvr.make_step(sample, update, tokenizer.decode, config)
    current, metrics = step(_copy(first), batch)
    assert metrics["reward_form"] == pytest.approx(0.5), "the grammar sees to that"
    assert 0 < metrics["reward_total"] <= 2.5
    total = sum(metrics[f"reward_{n}"] for n in ("form", "accuracy", "claims"))
    assert metrics["reward_total"] == pytest.approx(total, rel=1e-5)
    assert int(current.step) == 1
