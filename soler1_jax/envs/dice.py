"""Random numbers for a scene, from one draw.

Every call of `jax.random` costs compile time on a CPU, and a scene needs dozens of
numbers; so they are drawn at once and dealt out in the order in which they are asked for.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Dice:
    """Deals uniform numbers from one array; lives at trace time only.

    Args:
      key: a PRNG key.
      size: how many numbers may be asked for.
    """

    def __init__(self, key: Array, size: int) -> None:
        self._numbers = jax.random.uniform(key, (size,))
        self._next = 0

    def uniform(
        self,
        shape: tuple[int, ...] = (),
        low: Array | float = 0.0,
        high: Array | float = 1.0,
    ) -> Array:
        """Return float32 numbers in [low, high).

        Raises:
          ValueError: more numbers were asked for than were drawn.
        """
        count = int(np.prod(shape, dtype=int))
        start, self._next = self._next, self._next + count
        if self._next > self._numbers.shape[0]:
            raise ValueError(
                f"a scene needs more than {self._numbers.shape[0]} random numbers; "
                "draw more of them"
            )
        numbers = self._numbers[start : self._next].reshape(shape)
        return low + numbers * (jnp.asarray(high) - low)

    def integer(self, choices: int, shape: tuple[int, ...] = ()) -> Array:
        """Return int32 numbers in 0 .. choices - 1."""
        number = jnp.floor(self.uniform(shape) * choices).astype(jnp.int32)
        return jnp.minimum(number, choices - 1)
