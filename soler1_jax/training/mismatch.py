"""How far the sampler's distribution is from the trained model's, and its correction.

The sampler writes with a key-value cache and perhaps in another dtype or by other
kernels, so the log-probability that it drew a token with is not quite the one that the
model computes for the whole text at once. Corrections multiply a token's gain by their
ratio, as far as it can be trusted; names and meaning are TRL's. Truncated importance
sampling: fengyao.notion.site/off-policy-rl (2025). Letters: N completions, S tokens.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Correction = Literal[
    "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
]
CORRECTIONS: tuple[str, ...] = get_args(Correction)


def trust(
    old: jax.Array,
    sampled: jax.Array,
    mask: jax.Array,
    correction: Correction,
    cap: float,
) -> jax.Array | None:
    """What the gain of each token is multiplied by.

    Args:
      old: float32 [N,S], log-probabilities by the model's own graph, before it learns
        from these tokens.
      sampled: float32 [N,S], those that the sampler noted.
      mask: bool [N,S], tokens that were chosen.
      correction: "truncate" bounds a ratio by the cap, "mask" sets it to 0 above it; a
        "sequence" has the product of its tokens' ratios.
      cap: at least 1.

    Returns:
      float32 [N,S] or [N,1], without gradient; None if nothing is corrected.
    """
    if correction == "none":
        return None
    apart = jnp.where(mask, jax.lax.stop_gradient(old) - sampled, 0)
    if correction.startswith("sequence"):
        apart = apart.sum(axis=1, keepdims=True)
    ratio = jnp.exp(apart)
    if correction.endswith("truncate"):
        return jnp.minimum(ratio, cap)
    return jnp.where(ratio > cap, 0, ratio)


def measure(
    old: jax.Array, sampled: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """The mismatch of the chosen tokens; arguments as for `trust`.

    Returns:
      "mismatch", mean size of the difference in nats, and "mismatch_ratio", the
      largest ratio of one token's two probabilities, whichever is larger: at least 1.
    """
    size = jnp.where(mask, jnp.abs(old - sampled), 0)
    mean = size.sum() / jnp.maximum(mask.sum(), 1)
    return {"mismatch": mean, "mismatch_ratio": jnp.exp(size.max())}
