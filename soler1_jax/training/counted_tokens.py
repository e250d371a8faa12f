"""Tokens that count, first and in blocks, so that the others cost little.

Which ones count is known only while a program runs; how many blocks they fill is then the
end of a loop. Letters: N tokens, n of a block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# n is an eighth of N, within these.
_SMALLEST, _LARGEST = 128, 1024


class Blocks(NamedTuple):
    """An order of tokens; the last block may hold some that do not count."""

    order: jax.Array | None  # int32 [N]; None for all tokens in one block
    size: int  # n
    count: jax.Array | int  # blocks that hold what counts

    def cut(self, x: jax.Array, fill: float = 0) -> jax.Array:
        """Brings [N, ...] into order, filled up to whole blocks."""
        if self.order is None:
            return x
        spare = [(0, -len(x) % self.size)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x[self.order], spare, constant_values=fill)

    def put_back(self, x: jax.Array) -> jax.Array:
        """Undoes `cut`."""
        if self.order is None:
            return x
        x = x[: len(self.order)]
        return jnp.zeros_like(x).at[self.order].set(x, unique_indices=True)

    def get(self, x: jax.Array, at: jax.Array | int) -> jax.Array:
        """The block of `cut`'s result that starts at a token."""
        if self.order is None:
            return x
        return jax.lax.dynamic_slice_in_dim(x, at, self.size)

    def set(self, x: jax.Array, block: jax.Array, at: jax.Array | int) -> jax.Array:
        """Puts such a block in its place."""
        if self.order is None:
            return block
        return jax.lax.dynamic_update_slice_in_dim(x, block, at, 0)

    def over(self, visit: Callable[..., Any], carry: Any) -> Any:
        """Calls visit(start, carry) for each block; not differentiable."""
        if self.order is None:
            return visit(0, carry)
        return jax.lax.fori_loop(
            0, self.count, lambda i, kept: visit(i * self.size, kept), carry
        )


def block_size(tokens: int) -> int:
    """n of N."""
    return min(max(-(-tokens // 8), _SMALLEST), _LARGEST)


def blocks_of(counted: jax.Array | None) -> Blocks:
    """Puts first what counts.

    Args:
      counted: bool [...], N in all; None if all count.
    """
    if counted is None:
        return Blocks(None, 0, 1)
    counted = counted.reshape(-1)
    size = block_size(len(counted))
    order = jnp.argsort(~counted, stable=True)
    return Blocks(order, size, -(-jnp.sum(counted) // size))
