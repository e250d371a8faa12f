"""Losses of supervised training, each a pure function with float32 accumulation.

Letters: B samples, S completion tokens, V words of the vocabulary, N frames, M named
things per frame, P patches, H W pixels. All masks are bool, True where a value counts.
A loss over nothing is 0, so that a batch without questions of one kind is harmless.
"""

import jax
import jax.numpy as jnp
import optax

from soler1_jax.common.rewarder import bin_centers

# Metres that count as one unit in position errors: half the width of the work area.
POSITION_SCALE = 0.2
# Metres beyond which a position error counts by its size instead of its square.
POSITION_KNEE = 0.02


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` where `mask` (same shape, bool or weights), 0 if nowhere."""
    weights = mask.astype(jnp.float32)
    total = jnp.sum(values.astype(jnp.float32) * weights)
    return total / jnp.maximum(jnp.sum(weights), 1e-6)


def next_token(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy of completion tokens in nats (paper section 5).

    Args:
      logits: [B,S,V]; `logits[:, t]` predicts `targets[:, t]`.
      targets: int32 [B,S].
      mask: bool [B,S], False on padding. Prompt tokens are not among the targets.

    Returns:
      float32 scalar, the mean over all counted tokens of the batch.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )
    return masked_mean(losses, mask)


def soft_bins(progress: jax.Array, width: float) -> jax.Array:
    """Spreads progress over the 41 bins as a normalised Gaussian.

    Args:
      progress: [B], percent.
      width: standard deviation in percent.

    Returns:
      float32 [B,41], sums to 1.
    """
    offset = (progress[..., None] - bin_centers()) / width
    return jax.nn.softmax(-0.5 * offset**2, axis=-1)


def value_bins(
    value_logits: jax.Array, progress: jax.Array, mask: jax.Array, width: float = 5.0
) -> jax.Array:
    """Cross-entropy of the 41-bin head against soft labels.

    Args:
      value_logits: [B,41] at the token that opens the answer.
      progress: [B], percent.
      mask: bool [B].
      width: see `soft_bins`.
    """
    losses = optax.softmax_cross_entropy(
        value_logits.astype(jnp.float32), soft_bins(progress, width)
    )
    return masked_mean(losses, mask)


def answer_values(value_logits: jax.Array, answer: jax.Array) -> jax.Array:
    """Takes the value head where the answer begins.

    Args:
      value_logits: [B,S,41]; row t was computed before completion token t was read.
      answer: int32 [B], index of the first token after `<answer>`.

    Returns:
      [B,41].
    """
    return jnp.take_along_axis(value_logits, answer[:, None, None], axis=1)[:, 0]


def state_error(state: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error of the state head.

    Args:
      state: [B,F] prediction.
      target: [B,F] in the units of `perception.state_target`.
      mask: bool [B].
    """
    error = jnp.square(state.astype(jnp.float32) - target)
    return masked_mean(jnp.mean(error, axis=-1), mask)


def soft_cross_entropy(
    logits: jax.Array, fractions: jax.Array, weight: jax.Array
) -> jax.Array:
    """Cross-entropy against pixel fractions, weighted.

    Args:
      logits: [...,C].
      fractions: [...,C], non-negative, sums to 1 where `weight` is above 0.
      weight: [...].
    """
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), fractions)
    return masked_mean(losses, weight)


def heat(logits: jax.Array, fractions: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy of a heat map over patches against where the thing's pixels are.

    Args:
      logits: [...,P].
      fractions: [...,P], share of the thing's pixels in each patch; sums to 1.
      mask: bool [...], False where the thing is not visible.
    """
    return soft_cross_entropy(logits, fractions, mask)


def position(predicted: jax.Array, metres: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean position error, squared near 0 and absolute beyond POSITION_KNEE.

    Centimetres decide whether a thing is touched, and a squared error in units of the
    work area hardly notices them.

    Args:
      predicted: [...,3] in metres.
      metres: [...,3], world axes.
      mask: bool [...].

    Returns:
      float32 [], in units of POSITION_KNEE (pseudo-Huber per axis).
    """
    error = (predicted.astype(jnp.float32) - metres) / POSITION_KNEE
    return masked_mean(jnp.mean(jnp.sqrt(1 + error**2) - 1, axis=-1), mask)
