"""Group-relative policy optimisation: advantages and the clipped objective.

For one question the model writes G completions; each is judged against the others, so
no value network is needed (arXiv 2402.03300). Token-mean aggregation and a wider upper
clip follow DAPO (arXiv 2503.14476); without the division by the group's spread and by
the length it is Dr. GRPO (arXiv 2503.20783). Letters: B questions, G completions of
each, N = B*G, S tokens, V words. All sums are in float32.
"""

import dataclasses

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError, require_non_negative, require_positive

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
      dr: Dr. GRPO: no division by the group's standard deviation, and a constant
        instead of the token count under the sum.
    """

    group: int = 8
    temperature: float = 0.7
    top_p: float = 0.9
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0
    dr: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        if self.group < 2:
            raise UserError(
                "a group compares completions with each other; "
                f"got --group {self.group}; give 2 or more"
            )
        require_positive("--temperature", self.temperature)
        require_non_negative("--kl", self.kl)
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"--top-p is a share of probability; got {self.top_p}; "
                "give more than 0 and at most 1"
            )


def group_advantages(rewards: jax.Array, scale: bool = True) -> jax.Array:
    """How much better each completion is than its group.

    Args:
      rewards: float32 [B,G].
      scale: whether to divide by the group's standard deviation (sample estimate,
        G - 1 degrees of freedom).

    Returns:
      float32 [B,G], zero where all of a group earn the same.
    """
    rewards = rewards.astype(jnp.float32)
    # equal rewards must give exact zeros, which their rounded mean would not
    rewards = rewards - rewards[:, :1]
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if not scale:
        return centred
    variance = jnp.sum(centred**2, axis=1, keepdims=True) / (rewards.shape[1] - 1)
    return centred / (jnp.sqrt(variance) + _SPREAD_FLOOR)


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
    reference: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss to descend.

    Args:
      logprobs: [N,S] of the model that learns.
      old: [N,S] of the model that wrote the tokens; no gradient flows into it.
      advantages: [N], one for all tokens of a completion.
      mask: bool [N,S], tokens that were chosen rather than forced or padded.
      config: clipping, KL weight and aggregation.
      reference: [N,S] of the frozen model; needed if `config.kl` is above 0.

    Returns:
      float32 scalar, and the measures "clipped" (share of tokens whose gradient is
      cut), "ratio" (mean), and "kl" if there is a reference.
    """
    weights = mask.astype(jnp.float32)
    ratio = jnp.exp(logprobs - jax.lax.stop_gradient(old))
    bounded = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
    gain = advantages[:, None]
    surrogate = jnp.minimum(ratio * gain, bounded * gain)
    losses = -surrogate
    count = jnp.maximum(weights.sum(), 1.0)
    cut = (surrogate < ratio * gain) & mask
    measures = {
        "clipped": cut.sum() / count,
        "ratio": jnp.sum(ratio * weights) / count,
    }
    if reference is not None:
        apart = divergence(logprobs, jax.lax.stop_gradient(reference))
        losses = losses + config.kl * apart
        measures["kl"] = jnp.sum(apart * weights) / count
    divisor = float(losses.size) if config.dr else count
    return jnp.sum(losses * weights) / divisor, measures
