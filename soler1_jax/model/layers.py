"""Linear maps, norms, tables and feed-forward blocks.

Parameters are drawn in float32 and carry logical axis names (`Functional.logical_axes`);
activations have the configured dtype; norms are computed in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx

Axes = tuple[str | None, ...]


def parameter(value: jax.Array, axes: Axes) -> nnx.Param:
    """Wraps an array as a parameter with logical axis names."""
    return nnx.Param(value, logical=axes)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], scale: float) -> jax.Array:
    return scale * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape)


class Linear(nnx.Module):
    """y = x kernel + bias, kernel [in, out], accumulated in float32."""

    def __init__(
        self,
        sizes: tuple[int, int],
        axes: Axes,
        *,
        use_bias: bool,
        rngs: nnx.Rngs,
        scale: float = 1.0,
    ) -> None:
        """Draws the kernel with standard deviation `scale / sqrt(in)`."""
        inputs, outputs = sizes
        std = scale * inputs**-0.5
        self.kernel = parameter(_normal(rngs, (inputs, outputs), std), axes)
        self.bias = (
            parameter(jnp.zeros(outputs), (axes[-1],)) if use_bias else nnx.data(None)
        )

    def __call__(self, x: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
        """Maps [..., in] to [..., out] in `dtype`, by default x's."""
        kernel = self.kernel[...].astype(x.dtype)
        y = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(dtype or x.dtype)


class Embedding(nnx.Module):
    """A table of vectors."""

    def __init__(
        self, count: int, size: int, axes: Axes, *, scale: float, rngs: nnx.Rngs
    ) -> None:
        self.embedding = parameter(_normal(rngs, (count, size), scale), axes)

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Looks up int32 [...]: [..., size]."""
        return self.embedding[...][ids].astype(dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """Multiplies by the transposed table: [..., size] -> float32 [..., count]."""
        table = self.embedding[...].astype(x.dtype)
        return jnp.dot(x, table.T, preferred_element_type=jnp.float32)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis."""

    def __init__(self, size: int, eps: float = 1e-6, axis: str | None = None) -> None:
        self.scale = parameter(jnp.ones(size), (axis,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., size] in float32; returns x's dtype."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias over the last axis."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        self.scale = parameter(jnp.ones(size), (None,))
        self.bias = parameter(jnp.zeros(size), (None,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., size] in float32; returns x's dtype."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class GatedMLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, size: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        into, out = ("embed", "mlp"), ("mlp", "embed")
        self.gate_proj = Linear((size, hidden), into, use_bias=False, rngs=rngs)
        self.up_proj = Linear((size, hidden), into, use_bias=False, rngs=rngs)
        self.down_proj = Linear((hidden, size), out, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., size] to [..., size]."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class MLP(nnx.Module):
    """linear_fc2(gelu(linear_fc1(x))) with biases.

    Qwen3-VL uses the tanh form of GELU in the blocks and the exact one in mergers.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        *,
        rngs: nnx.Rngs,
        approximate: bool = True,
    ) -> None:
        """`sizes` are input, hidden and output channels."""
        inputs, hidden, outputs = sizes
        self.linear_fc1 = Linear(
            (inputs, hidden), ("embed", "mlp"), use_bias=True, rngs=rngs
        )
        self.linear_fc2 = Linear(
            (hidden, outputs), ("mlp", "embed"), use_bias=True, rngs=rngs
        )
        self.approximate = approximate

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., input] to [..., output]."""
        hidden = jax.nn.gelu(self.linear_fc1(x), approximate=self.approximate)
        return self.linear_fc2(hidden)
