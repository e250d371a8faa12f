"""Group-relative policy optimisation: advantages and the clipped objective.

For one question the model writes G completions; each is judged against the others, so
no value network is needed (arXiv 2402.03300). The variants, all equal to TRL's (see
tests/golden/make_grpo.py):

    loss         "dapo": mean over all tokens (arXiv 2503.14476), TRL's bnpo too, which
                 differs only if one batch is spread over several gradient steps;
                 "grpo": mean over a completion's tokens, then over completions
                 (arXiv 2402.03300); "dr_grpo": sum over N * S (arXiv 2503.20783)
    scale        what divides the advantages: the spread of their group, of the batch
                 (arXiv 2508.08221), or nothing (arXiv 2503.20783)
    importance   one ratio a token, or one a completion (GSPO, arXiv 2507.18071, which
                 goes with loss "grpo" and clips of 3e-4 and 4e-4)

Letters: B questions, G completions of each, N = B*G, S tokens, V words. All sums are in
float32.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import (
    UserError,
    nearest_hint,
    require_non_negative,
    require_positive,
)
from soler1_jax.training.mismatch import CORRECTIONS, Correction

Loss = Literal["dapo", "grpo", "dr_grpo"]
Scale = Literal["group", "batch", "none"]
Importance = Literal["token", "sequence"]

_SPREAD_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Settings of the objective (paper section 6 where it states them).

    Attributes:
      group: G, completions of one question.
      temperature: of sampling; the objective uses the same one.
      top_p: share of probability that sampling keeps.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far it may rise above 1.
      kl: weight of the divergence from the frozen first model; 0 needs no copy of it.
      unbiased_kl: multiply its estimate by the ratio, whose gradient makes the whole that
        of KL(model || frozen) (arXiv 2512.02556); without it is that of
        KL(frozen || model), as in GRPO's own paper.
      loss: how tokens are averaged, see the module.
      scale: what divides the advantages.
      importance: what has a ratio.
      drop_equal: leave out groups whose completions all earned the same, from the
        loss and from what divides it, as if they had not been drawn. DAPO draws others
        instead, which has no static shape; the share that is left out is measured.
      mask_truncated: leave out the tokens of completions that were cut at the budget.
      correction: of the mismatch between sampler and model, see mismatch.py.
      correction_cap: largest ratio that it trusts.
    """

    group: int = 8
    temperature: float = 0.7
    top_p: float = 0.9
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0
    unbiased_kl: bool = False
    loss: Loss = "dapo"
    scale: Scale = "group"
    importance: Importance = "token"
    drop_equal: bool = False
    mask_truncated: bool = False
    correction: Correction = "none"
    correction_cap: float = 3.0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        if self.group < 2:
            raise UserError(
                "a group compares completions with each other; "
                f"got --group {self.group}; give 2 or more"
            )
        require_positive("--temperature", self.temperature)
        require_non_negative("--kl", self.kl)
        require_non_negative("--clip-high", self.clip_high)
        if not 0 <= self.clip_low <= 1:
            raise UserError(
                "a ratio is positive, so it falls below 1 by less than 1; "
                f"got --clip-low {self.clip_low}; give 0 to 1"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"--top-p is a share of probability; got {self.top_p}; "
                "give more than 0 and at most 1"
            )
        _require_choice("--loss", self.loss, get_args(Loss))
        _require_choice("--scale", self.scale, get_args(Scale))
        _require_choice("--importance", self.importance, get_args(Importance))
        _require_choice("--correction", self.correction, CORRECTIONS)
        if self.correction_cap < 1:
            raise UserError(
                "a sampler that agrees with the model has ratio 1, which must pass; "
                f"got --correction-cap {self.correction_cap}; give 1 or more"
            )


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = nearest_hint(value, choices)
        raise UserError(f"{name} names a variant; got {value!r}{hint}")


def group_advantages(
    rewards: jax.Array, scale: Scale = "group", kept: jax.Array | None = None
) -> jax.Array:
    """How much better each completion is than its group.

    Args:
      rewards: float32 [B,G].
      scale: divide by the standard deviation of the group, of the batch (sample
        estimates, one degree of freedom less), or by nothing.
      kept: bool [B], groups that belong to the batch; None for all.

    Returns:
      float32 [B,G], zero where all of a group earn the same.
    """
    rewards = rewards.astype(jnp.float32)
    # equal rewards must give exact zeros, which their rounded mean would not
    shifted = rewards - rewards[:, :1]
    centred = shifted - shifted.mean(axis=1, keepdims=True)
    if scale == "none":
        return centred
    if scale == "group":
        spread = jnp.std(shifted, axis=1, keepdims=True, ddof=1)
        return centred / (spread + _SPREAD_FLOOR)
    counted = jnp.ones_like(rewards) if kept is None else kept[:, None]
    counted = jnp.broadcast_to(counted, rewards.shape).astype(jnp.float32)
    distance = rewards - _mean(rewards, counted)
    freedom = jnp.maximum(counted.sum() - 1, 1.0)
    spread = jnp.sqrt(jnp.sum(distance**2 * counted) / freedom)
    return centred / (spread + _SPREAD_FLOOR)


def equal_groups(rewards: jax.Array) -> jax.Array:
    """Whether all of a group earned the same, which teaches nothing: [B,G] -> bool [B]."""
    return jnp.all(rewards == rewards[:, :1], axis=1)


def token_logprobs(
    logits: jax.Array, tokens: jax.Array, temperature: float
) -> jax.Array:
    """Log-probability of each token under softmax(logits / temperature).

    Args:
      logits: [N,S,V].
      tokens: int32 [N,S].
      temperature: of sampling.

    Returns:
      float32 [N,S], nats.
    """
    scaled = logits.astype(jnp.float32) / temperature
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.scipy.special.logsumexp(scaled, axis=-1)


def divergence(logprobs: jax.Array, reference: jax.Array) -> jax.Array:
    """Per-token estimate of KL(model || reference), never negative.

    With d = reference - logprobs it is exp(d) - d - 1: unbiased for samples of the
    model (Schulman's third estimator, as in arXiv 2402.03300, equation 4).
    """
    difference = reference - logprobs
    return jnp.exp(difference) - difference - 1


def objective(
    logprobs: jax.Array,
    old: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    config: GrpoConfig,
    *,
    reference: jax.Array | None = None,
    trust: jax.Array | None = None,
    kept: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss to descend.

    Args:
      logprobs: [N,S] of the model that learns.
      old: [N,S] of the model that wrote the tokens; no gradient flows into it.
      advantages: [N], one for all tokens of a completion.
      mask: bool [N,S], tokens that were chosen rather than forced or padded.
      config: clipping, KL weight and aggregation.
      reference: [N,S] of the frozen model; needed if `config.kl` is above 0.
      trust: [N,S] or [N,1], `mismatch.trust`; None for 1.
      kept: bool [N], False for completions to be treated as if they had not been
        drawn; None for all. A completion whose mask is empty still counts as one.

    Returns:
      float32 scalar, and the measures "clipped" (share of ratios whose gradient is
      cut), "ratio" (mean), and "kl" if there is a reference. With one ratio a
      completion the first two are shares of completions.
    """
    if kept is None:
        kept = jnp.ones(mask.shape[0], bool)
    mask = mask & kept[:, None]
    weights = mask.astype(jnp.float32)
    apart = logprobs - jax.lax.stop_gradient(old)
    counted = weights
    if config.importance == "sequence":
        lengths = jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        apart = jnp.sum(apart * weights, axis=1, keepdims=True) / lengths
        counted = kept[:, None].astype(jnp.float32)
    ratio = jnp.exp(apart)
    bounded = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
    gain = advantages[:, None]
    surrogate = jnp.minimum(ratio * gain, bounded * gain)
    cut = surrogate < ratio * gain
    measures = {"clipped": _mean(cut, counted), "ratio": _mean(ratio, counted)}
    losses = -surrogate if trust is None else -surrogate * trust
    if reference is not None:
        distance = divergence(logprobs, jax.lax.stop_gradient(reference))
        if config.unbiased_kl:
            distance = ratio * distance
        losses = losses + config.kl * distance
        measures["kl"] = _mean(distance, weights)
    return _aggregate(losses, weights, kept, config.loss), measures


def _aggregate(
    losses: jax.Array, weights: jax.Array, kept: jax.Array, loss: Loss
) -> jax.Array:
    """One loss from those of tokens, [N,S] or [N,1]; weights 0 where nothing counts."""
    if loss == "dapo":
        return _mean(losses, weights)
    completions = jnp.maximum(kept.sum(), 1)
    if loss == "dr_grpo":
        return jnp.sum(losses * weights) / (completions * weights.shape[1])
    lengths = jnp.maximum(weights.sum(axis=1), 1.0)
    return jnp.sum(jnp.sum(losses * weights, axis=1) / lengths) / completions


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(values * weights) / jnp.maximum(weights.sum(), 1.0)
