"""From logits to a token: greedy, temperature, top-k, top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError

# Finite, so that a difference of two masked values is not NaN.
FORBIDDEN = -1e30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How to draw a token.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keep only so many of the likeliest tokens; 0 keeps all.
      top_p: keep the fewest likeliest tokens whose probabilities reach this sum; 1 keeps
        all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        if self.temperature < 0:
            raise UserError(
                f"a temperature is 0 (greedy) or more; got {self.temperature}; raise it"
            )
        if self.top_k < 0:
            raise UserError(f"top-k is 0 (all) or more; got {self.top_k}; raise it")
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"top-p is a share of probability; got {self.top_p}; give more than 0 "
                "and at most 1"
            )


GREEDY = Method()


def choose(logits: jax.Array, key: jax.Array, method: Method) -> jax.Array:
    """Draws one token per row.

    Args:
      logits: float32 [B, V]; `FORBIDDEN` where a token must not come.
      key: random key; unused when greedy.
      method: how.

    Returns:
      int32 [B].
    """
    if method.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scaled = restrict(logits / method.temperature, method.top_k, method.top_p)
    return jax.random.categorical(key, scaled, axis=-1).astype(jnp.int32)


def restrict(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Forbids all but the likeliest tokens; float32 [B, V] -> [B, V].

    Top-p is applied to what top-k leaves; the likeliest token always stays, and of
    tokens with equal shares all or none do.
    """
    if 0 < top_k < logits.shape[-1]:
        lowest = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < lowest, FORBIDDEN, logits)
    if top_p < 1:
        shares = jax.nn.softmax(logits, axis=-1)
        logits = jnp.where(shares < _least_kept(shares, top_p), FORBIDDEN, logits)
    return logits


def _least_kept(shares: jax.Array, top_p: float) -> jax.Array:
    """The greatest of float32 shares [B, V] from which on they reach `top_p`: [B, 1].

    Found bit by bit, as numbers that are not negative have the order of their bits: 30
    sums over a row, where a sort of 151,936 words took ten times as long on a CPU.
    """
    bits = jax.lax.bitcast_convert_type(shares, jnp.int32)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends  # shares from low on reach top_p, those from high on do not
        middle = (low + high) // 2
        reached = jnp.sum(jnp.where(bits >= middle, shares, 0), -1, keepdims=True)
        enough = reached >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    high = bits.max(axis=-1, keepdims=True) + 1
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(high), high))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
