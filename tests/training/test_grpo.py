"""Advantages and objective against a derivation in plain Python loops."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.training import grpo

B, G, S, V = 3, 4, 5, 7


def _problem(seed):
    rng = np.random.default_rng(seed)
    n = B * G
    logits, old, reference = (rng.normal(size=(n, S, V)) for _ in range(3))
    tokens = rng.integers(0, V, (n, S))
    lengths = rng.integers(1, S + 1, n)
    mask = np.arange(S) < lengths[:, None]
    return logits, old, reference, tokens, mask, rng.normal(size=(B, G))


def _log_softmax_at(logits, token, temperature):
    scaled = [x / temperature for x in logits]
    top = max(scaled)
    return scaled[token] - top - math.log(sum(math.exp(x - top) for x in scaled))


def _by_hand(problem, config):
    """TRL's per-token loss (dapo and dr_grpo aggregation), token by token."""
    logits, old, reference, tokens, mask, rewards = problem
    total, active = 0.0, 0
    for n in range(B * G):
        group = [float(r) for r in rewards[n // G]]
        mean = sum(group) / G
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (G - 1))
        advantage = group[n % G] - mean
        if config.scale == "group":
            advantage /= std + 1e-4
        for t in range(S):
            if not mask[n, t]:
                continue
            active += 1
            p, q, ref = (
                _log_softmax_at(x[n, t], tokens[n, t], config.temperature)
                for x in (logits, old, reference)
            )
            ratio = math.exp(p - q)
            low, high = 1 - config.clip_low, 1 + config.clip_high
            clipped = min(max(ratio, low), high)
            loss = -min(ratio * advantage, clipped * advantage)
            loss += config.kl * (math.exp(ref - p) - (ref - p) - 1)
            total += loss
    return total / (B * G * S if config.loss == "dr_grpo" else active)


def _ours(problem, config):
    logits, old, reference, tokens, mask, rewards = problem
    advantages = grpo.group_advantages(jnp.asarray(rewards), config.scale).reshape(-1)
    p, q, ref = (
        grpo.token_logprobs(jnp.asarray(x), jnp.asarray(tokens), config.temperature)
        for x in (logits, old, reference)
    )
    return grpo.objective(p, q, advantages, jnp.asarray(mask), config, reference=ref)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "config",
    [
        grpo.GrpoConfig(group=G),
        grpo.GrpoConfig(group=G, kl=0.3, temperature=1.0),
        grpo.GrpoConfig(group=G, loss="dr_grpo", scale="none", kl=0.1, clip_high=0.2),
    ],
)
def test_objective_equals_the_loops(seed, config):
    problem = _problem(seed)
    loss, _ = _ours(problem, config)
    assert float(loss) == pytest.approx(_by_hand(problem, config), rel=1e-4)


def test_gradient_stops_only_where_a_ratio_left_the_clip_in_the_good_direction():
    config = grpo.GrpoConfig(group=2, clip_low=0.2, clip_high=0.28)
    logprobs = jnp.log(jnp.array([[1.25, 1.35, 0.75], [1.25, 1.35, 0.75]]))
    advantages = jnp.array([1.0, -1.0])
    mask = jnp.ones((2, 3), bool)

    def loss(x):
        return grpo.objective(x, jnp.zeros_like(x), advantages, mask, config)[0]

    moved = np.asarray(jax.grad(loss)(logprobs)) != 0
    # a gain is cut above 1.28, not at 1.25; a loss is cut below 0.8
    np.testing.assert_array_equal(moved, [[True, False, True], [True, True, False]])


@hypothesis.given(
    st.lists(st.floats(-2, 2, width=32), min_size=G, max_size=G),
    st.floats(-5, 5, width=32),
)
def test_advantages_ignore_a_bonus_for_all(rewards, bonus):
    rewards = jnp.array([rewards])
    a = grpo.group_advantages(rewards)
    np.testing.assert_allclose(a.sum(), 0, atol=1e-3)
    scaled = grpo.group_advantages(rewards, scale="none")
    shifted = grpo.group_advantages(rewards + bonus, scale="none")
    np.testing.assert_allclose(scaled, shifted, atol=1e-5)


def test_equal_rewards_teach_nothing():
    assert not np.any(grpo.group_advantages(jnp.full((2, 8), 1.7)))


def test_padding_changes_nothing():
    logits, old, reference, tokens, mask, rewards = _problem(0)
    config = grpo.GrpoConfig(group=G, kl=0.1)
    before, _ = _ours((logits, old, reference, tokens, mask, rewards), config)
    pad = ~mask[..., None]
    noisy = [x + pad * 9.0 for x in (logits, old, reference)]
    after, _ = _ours((*noisy, np.where(mask, tokens, 0), mask, rewards), config)
    assert float(before) == pytest.approx(float(after), rel=1e-6)


def test_divergence_is_zero_only_at_equality():
    x = jnp.array([-1.0, -2.0])
    assert not np.any(grpo.divergence(x, x))
    assert np.all(np.asarray(grpo.divergence(x, x + jnp.array([0.5, -0.5]))) > 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"group": 1},
        {"temperature": 0.0},
        {"top_p": 1.5},
        {"kl": -1.0},
        {"clip_low": 1.5},
        {"clip_high": -0.1},
        {"loss": "ppo"},
        {"scale": "token"},
        {"importance": "word"},
        {"correction": "clip"},
        {"correction_cap": 0.5},
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UserError):
        grpo.GrpoConfig(**bad)
