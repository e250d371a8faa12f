"""A stack of equal layers, unrolled or scanned.

Scanned layers hold their weights along a leading `layers` axis, so that compile time
does not grow with depth. Unrolled layers let XLA fuse and update small caches in place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.kernels.flash_attention.program import RESULTS
from soler1_jax.model.layers import turn_kernels


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
        apart: tuple | None = None,
    ) -> tuple[Any, Any]:
        """Runs layers `span[0]` to `span[1] - 1` (default: all) one after another.

        Args:
          apply: (module, carry, x, index) -> (carry, y).
          carry: what flows through the layers.
          per_layer: xs. Unrolled: a tuple over the layers of the span. Scanned: a pytree
            whose leaves have the span's length in front, or a plain tuple as well, with
            which the layers run one by one.
          span: which layers.
          apart: what the method of this name returned, to be used for scanned layers
            that run one by one.

        Returns:
          The last carry, and the ys in the same form as `per_layer`.
        """
        low, high = span or (0, self.depth)
        if not self.scan or type(per_layer) is tuple:
            return self._unroll(apply, carry, per_layer, (low, high), apart)
        graph, state = nnx.split(self.stacked)
        state = jax.tree.map(lambda a: a[low:high], state)

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            weights, given, index = x
            return apply(nnx.merge(graph, weights), carry, given, index)

        # a loop keeps the two passes apart, which otherwise XLA would join again
        body = jax.checkpoint(body, policy=self._policy(), prevent_cse=False)
        return jax.lax.scan(body, carry, (state, per_layer, jnp.arange(low, high)))

    def _policy(self) -> Callable[..., bool] | None:
        """What the backward pass finds kept beside the layers' inputs.

        Without `remat` products and attention; norms, rotations and activations are
        computed again. A step of packed 2,048 tokens with 78 M parameters took 7.5
        instead of 9.8 s on two cores so, which wrote half as much memory.
        """
        if self.remat:
            return None
        return jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_saveable,
            jax.checkpoint_policies.save_only_these_names(RESULTS),
        )

    def apart(self, *, turned: bool) -> tuple | None:
        """Scanned layers as one module each; None unless scanned.

        Args:
          turned: whether to lay kernels as `turn_kernels` does.
        """
        if not self.scan:
            return None
        graph, state = nnx.split(self.stacked)
        leaves, tree = jax.tree.flatten(state)
        layers = (tree.unflatten(layer) for layer in zip(*leaves, strict=True))
        modules = (nnx.merge(graph, layer) for layer in layers)
        return tuple(turn_kernels(m) if turned else m for m in modules)

    def _unroll(
        self,
        apply: Callable,
        carry: Any,
        per_layer: Any,
        span: tuple[int, int],
        apart: tuple | None,
    ) -> tuple[Any, Any]:
        ys = []
        for offset, index in enumerate(range(*span)):
            graph, weights = self._layer(index, apart)

            def body(carry: Any, weights: Any, x: Any, g=graph, i=index) -> Any:
                return apply(nnx.merge(g, weights), carry, x, i)

            body = jax.checkpoint(body, policy=self._policy())
            x = None if per_layer is None else per_layer[offset]
            carry, y = body(carry, weights, x)
            ys.append(y)
        return carry, tuple(ys)

    def _layer(self, index: int, apart: tuple | None) -> tuple[nnx.GraphDef, Any]:
        """One layer's structure and weights."""
        if apart is not None:
            return nnx.split(apart[index])
        if not self.scan:
            return nnx.split(self.blocks[index])
        graph, state = nnx.split(self.stacked)
        return graph, jax.tree.map(lambda a: a[index], state)
