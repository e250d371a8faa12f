"""Every variant of the objective finds the best answer of a question that is known.

The policy is a table of logits: S places, V words, drawn independently. Sequences end
at the word END, so they differ in length as thoughts do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from soler1_jax.training import grpo

WORDS, PLACES, END = 5, 3, 0
BEST = (3, 1, END)
GROUP, QUESTIONS = 8, 8


def _draw(logits, key, count):
    """Words [N,S] and which of them count: those up to the end."""
    words = jax.random.categorical(key, logits, shape=(count, *logits.shape[:-1]))
    ended = jnp.cumsum(words == END, axis=1) - (words == END)
    return words, ended == 0


def _logprobs(logits, words):
    all_words = jnp.broadcast_to(logits, (*words.shape, logits.shape[-1]))
    return grpo.token_logprobs(all_words, words, 1.0)


def _reward(words, mask):
    """How many places are those of BEST: the only best sequence has three."""
    return jnp.sum((words == jnp.asarray(BEST)) & mask, axis=1).astype(jnp.float32)


def _learn(config, reward, logits, *, steps, rate, questions=QUESTIONS, seed=0):
    """Two updates on each set of samples, the second one off the policy."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, 2 * steps))
    reference = jax.nn.log_softmax(logits)

    def step(carry, key):
        logits, moments = carry
        words, mask = _draw(logits, key, questions * config.group)
        earned = reward(words, mask).reshape(-1, config.group)
        old = _logprobs(logits, words)
        same = grpo.equal_groups(earned)
        kept = ~same if config.drop_equal else jnp.ones_like(same)
        advantages = grpo.group_advantages(earned, config.scale, kept).reshape(-1)

        def loss(logits):
            return grpo.objective(
                _logprobs(logits, words),
                old,
                advantages,
                mask,
                config,
                reference=_logprobs(reference, words) if config.kl else None,
                kept=kept.repeat(config.group),
            )[0]

        for _ in range(2):
            change, moments = optimizer.update(jax.grad(loss)(logits), moments)
            logits = logits + change
        return (logits, moments), logits

    keys = jax.random.split(jax.random.key(seed), steps)
    learn = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), keys))
    _, path = learn(logits)
    return np.asarray(path)


VARIANTS = [
    {},
    {"loss": "grpo"},
    {"loss": "dr_grpo", "scale": "none"},
    {"scale": "batch"},
    {"drop_equal": True},
    {"importance": "sequence", "loss": "grpo", "clip_low": 3e-2, "clip_high": 4e-2},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=[str(v) for v in VARIANTS])
def test_the_best_sequence_is_found(variant):
    config = grpo.GrpoConfig(group=GROUP, **variant)
    start = jnp.zeros((PLACES, WORDS))
    path = _learn(config, _reward, start, steps=150, rate=0.1)
    chances = jax.nn.softmax(path[-1])
    assert float(chances[np.arange(PLACES), jnp.asarray(BEST)].prod()) > 0.9


REWARDS = jnp.array([0.0, 0.3, 1.0, 0.6])
PRIOR = jnp.log(jnp.array([0.4, 0.3, 0.1, 0.2]))


def _optimum(unbiased, kl):
    """The chances at which gain and divergence balance, for rewards less their mean.

    A completion's own reward is in its group's mean, which shrinks gains by 1 - 1/G.
    The unbiased estimate pulls towards prior * exp(gain / kl), the other one, whose
    gradient is that of KL(prior || policy), to prior / (1 - (gain - mean gain) / kl).
    """
    gain = np.asarray(REWARDS, float) * (1 - 1 / GROUP)
    prior = np.exp(np.asarray(PRIOR, float))
    if unbiased:
        weights = prior * np.exp(gain / kl)
        return weights / weights.sum()
    mean = brentq(
        lambda m: np.sum(prior / (1 - (gain - m) / kl)) - 1,
        gain.max() - kl * (1 - prior[gain.argmax()]),
        gain.max(),
    )
    return prior / (1 - (gain - mean) / kl)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_divergence_pulls_to_where_theory_says(unbiased):
    kl = 0.5
    config = grpo.GrpoConfig(
        group=GROUP, loss="dr_grpo", scale="none", kl=kl, unbiased_kl=unbiased
    )

    def reward(words, mask):
        return REWARDS[words[:, 0]]

    path = _learn(config, reward, PRIOR[None], steps=400, rate=0.05, questions=64)
    found = np.asarray(jax.nn.softmax(path[-100:, 0])).mean(axis=0)
    other = _optimum(not unbiased, kl)
    np.testing.assert_allclose(found, _optimum(unbiased, kl), atol=0.01)
    assert np.abs(found - other).max() > 0.03
