"""Advantages, loss, its gradient and measures equal TRL's (see golden/make_grpo.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grpo_cases import CASES, GOLDEN, GROUP, GROUPS, SYNONYMS, TEMPERATURE, TOKENS

from soler1_jax.training import chunked_cross_entropy, grpo, mismatch

END = 1
RUNS = [(name, case) for name, case in CASES.items()]
RUNS += [(name, CASES[ours]) for name, ours in SYNONYMS.items()]


@pytest.fixture(scope="module")
def golden():
    """What TRL computed."""
    with np.load(GOLDEN) as stored:
        return {name: jnp.asarray(stored[name]) for name in stored.files}


def _plain(hidden, head, tokens):
    return grpo.token_logprobs(hidden @ head.T, tokens, TEMPERATURE)


def _chunked(hidden, head, tokens):
    how = chunked_cross_entropy.Head(temperature=TEMPERATURE, tile=5)
    return chunked_cross_entropy.token_logprobs(hidden, head, tokens, how)


def _ours(golden, config, logprobs_of):
    """Loss, advantages, gradient with respect to the head, measures."""
    tokens = golden["tokens"].astype(jnp.int32)
    mask = jnp.arange(TOKENS) < golden["lengths"][:, None]
    if config.mask_truncated:
        mask = mask & (tokens == END).any(axis=1)[:, None]
    same = grpo.equal_groups(golden["rewards"])
    kept = ~same if config.drop_equal else jnp.ones(GROUPS, bool)
    advantages = grpo.group_advantages(golden["rewards"], config.scale, kept)
    old, frozen = (
        logprobs_of(golden[f"hidden_{who}"], golden[f"head_{who}"], tokens)
        for who in ("old", "reference")
    )
    kept = kept.repeat(GROUP)

    def loss_of(head):
        return grpo.objective(
            logprobs_of(golden["hidden"], head, tokens),
            old,
            advantages.reshape(-1),
            mask,
            config,
            reference=frozen if config.kl else None,
            trust=mismatch.trust(
                old, golden["sampled"], mask, config.correction, config.correction_cap
            ),
            kept=kept,
        )

    (loss, measures), grad = jax.value_and_grad(loss_of, has_aux=True)(golden["head"])
    measures |= mismatch.measure(old, golden["sampled"], mask)
    measures["equal_groups"] = same[kept.reshape(GROUPS, GROUP)[:, 0]].mean()
    return loss, advantages.reshape(-1)[kept], grad, measures


@pytest.mark.parametrize("logprobs_of", [_plain, _chunked])
@pytest.mark.parametrize(("name", "case"), RUNS, ids=[name for name, _ in RUNS])
def test_equals_trl(golden, name, case, logprobs_of):
    config = grpo.GrpoConfig(group=GROUP, temperature=TEMPERATURE, **case)
    loss, advantages, grad, measures = _ours(golden, config, logprobs_of)
    near = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(loss, golden[f"{name}/loss"], **near)
    np.testing.assert_allclose(advantages, golden[f"{name}/advantages"], **near)
    np.testing.assert_allclose(grad, golden[f"{name}/grad"], rtol=1e-5, atol=1e-6)
    # TRL counts equal groups by the spread of what it divides by
    told = ("clipped", "kl", *(("equal_groups",) if config.scale != "batch" else ()))
    for measure in told:
        if f"{name}/{measure}" in golden:
            expected = golden[f"{name}/{measure}"]
            np.testing.assert_allclose(measures[measure], expected, **near)
    if config.correction != "none":
        expected = golden[f"{name}/mismatch"]
        np.testing.assert_allclose(measures["mismatch"], expected, **near)
        expected = jnp.exp(golden[f"{name}/mismatch_max"])
        np.testing.assert_allclose(measures["mismatch_ratio"], expected, **near)


def test_the_cases_are_told_apart(golden):
    losses = {name: float(golden[f"{name}/loss"]) for name in CASES}
    assert len(set(losses.values())) == len(losses)
    assert golden["dapo/clipped"] > 0.05
    assert golden["gspo-wide/clipped"] > 0
