"""A stack of equal layers, unrolled or scanned.

Scanned layers hold their weights along a leading `layers` axis, so that compile time
does not grow with depth. Unrolled layers let XLA fuse and update small caches in place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class LayerStack(nnx.Module):
    """`depth` modules built by `make(rngs)`."""

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        *,
        scan: bool,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.depth, self.scan, self.remat = depth, scan, remat
        if scan:
            keys = jax.random.split(rngs.params(), depth)
            self.stacked = nnx.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)
        else:
            self.blocks = nnx.List([make(rngs) for _ in range(depth)])

    def run(
        self,
        apply: Callable[[Any, Any, Any, jax.Array | int], tuple[Any, Any]],
        carry: Any,
        per_layer: Any = None,
        span: tuple[int, int] | None = None,
        *,
        weights: tuple | None = None,
    ) -> tuple[Any, Any]:
        """Runs layers `span[0]` to `span[1] - 1` (default: all) one after another.

        Args:
          apply: (module, carry, x, index) -> (carry, y).
          carry: what flows through the layers.
          per_layer: xs. Unrolled: a tuple over the layers of the span. Scanned: a pytree
            whose leaves have the span's length in front.
          span: which layers.
          weights: of `apart`; scanned layers then run one by one, and `per_layer` is a
            tuple.

        Returns:
          The last carry, and the ys in the same form as `per_layer`.
        """
        low, high = span or (0, self.depth)
        if weights is not None or not self.scan:
            return self._unroll(apply, carry, per_layer, (low, high), weights)
        graph, state = nnx.split(self.stacked)
        state = jax.tree.map(lambda a: a[low:high], state)

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            weights, given, index = x
            return apply(nnx.merge(graph, weights), carry, given, index)

        body = jax.checkpoint(body) if self.remat else body
        return jax.lax.scan(body, carry, (state, per_layer, jnp.arange(low, high)))

    def apart(self) -> tuple | None:
        """The weights of scanned layers, one tree a layer; None unless they are scanned."""
        if not self.scan:
            return None
        state = nnx.split(self.stacked)[1]
        leaves, tree = jax.tree.flatten(state)
        return tuple(tree.unflatten(layer) for layer in zip(*leaves, strict=True))

    def _unroll(
        self,
        apply: Callable,
        carry: Any,
        per_layer: Any,
        span: tuple[int, int],
        given: tuple | None,
    ) -> tuple[Any, Any]:
        ys = []
        for offset, index in enumerate(range(*span)):
            if given is None:
                graph, weights = nnx.split(self.blocks[index])
            else:
                graph, weights = nnx.split(self.stacked)[0], given[index]

            def body(carry: Any, weights: Any, x: Any, g=graph, i=index) -> Any:
                return apply(nnx.merge(g, weights), carry, x, i)

            body = jax.checkpoint(body) if self.remat else body
            x = None if per_layer is None else per_layer[offset]
            carry, y = body(carry, weights, x)
            ys.append(y)
        return carry, tuple(ys)
