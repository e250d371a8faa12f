"""Random arguments of attention, and errors relative to float64."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


def normal(rng: np.random.Generator, dtype: str, *shape: int) -> jax.Array:
    """Return normal numbers of a dtype."""
    return jnp.asarray(rng.normal(size=shape), dtype)


def sorted_segments(rng: np.random.Generator, count: int, *shape: int) -> np.ndarray:
    """Return int32 segments 1..count in order, some maybe empty, padding (0) behind."""
    drawn = np.sort(rng.integers(1, count + 2, shape), axis=-1)
    return np.where(drawn > count, 0, drawn).astype(np.int32)


def with_gradients(
    function: Callable[..., Sequence[jax.Array]],
    arguments: Sequence[jax.Array],
    weights: Sequence[np.ndarray],
    dtype: str | None = None,
) -> list[np.ndarray]:
    """Return outputs and gradients of their weighted sum, as float64.

    Args:
      function: from the arguments to a tuple of arrays.
      arguments: what is differentiated with respect to.
      weights: one array an output; entries where the output is not finite are left out.
      dtype: to compute in, if not that of the arguments; "float64" is allowed.
    """

    def weighted(*arguments: jax.Array) -> tuple[jax.Array, Any]:
        outputs = function(*arguments)
        total = 0.0
        for x, w in zip(outputs, weights, strict=True):
            w = jnp.asarray(w, x.dtype)
            total += jnp.sum(jnp.where(jnp.isfinite(x), x * w, 0))
        return total, outputs

    with jax.enable_x64(dtype == "float64"):
        cast = [jnp.asarray(x, dtype or x.dtype) for x in arguments]
        numbers = tuple(range(len(cast)))
        call = jax.jit(jax.value_and_grad(weighted, argnums=numbers, has_aux=True))
        (_, outputs), gradients = call(*cast)
        return [np.asarray(x, np.float64) for x in (*outputs, *gradients)]


def relative_errors(
    got: Sequence[np.ndarray], exact: Sequence[np.ndarray], outputs: int
) -> list:
    """Return the greatest error of each array relative to the exact entries.

    Of an output, relative to its own greatest entry. Of a gradient, to the greatest of
    all gradients: that of a query vanishes where one key has all the weight, by terms
    that cancel and leave their rounding.

    Args:
      got: the outputs, then the gradients, of `with_gradients`.
      exact: the same in float64.
      outputs: how many are outputs.
    """
    finite = [np.isfinite(x) for x in exact]
    greatest = [
        np.abs(x[mask]).max(initial=0) for x, mask in zip(exact, finite, strict=True)
    ]
    most = max(greatest[outputs:], default=0)
    scales = [*greatest[:outputs], *[most] * (len(exact) - outputs)]
    errors = []
    for a, b, mask, scale in zip(got, exact, finite, scales, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), mask)
        np.testing.assert_array_equal(a[~mask], b[~mask])
        difference = np.abs(a[mask] - b[mask]).max(initial=0)
        errors.append(difference / scale if scale else difference)
    return errors
