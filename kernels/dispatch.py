"""What every kernel's entry point shares: argument checks and choice of a program.

A kernel is one function with several programs behind it:

- "xla": plain JAX, on every platform;
- "pallas_tpu": Pallas lowered by Mosaic, on TPU;
- "interpret": the program of "pallas_tpu" run by Pallas' TPU interpreter, anywhere;
- "pallas_gpu": Pallas lowered by Mosaic GPU, on Hopper;
- "cudnn": NVIDIA's library, through `jax.nn`.
"""

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

Array = jax.Array

IMPLEMENTATIONS = ("xla", "pallas_tpu", "pallas_gpu", "cudnn", "interpret")
"""Every name that `implementation` may have."""

_BY_PLATFORM = {"tpu": "pallas_tpu"}


def choose_implementation(
    kernel: str,
    implementation: str | None,
    supported: Collection[str],
    missing: Mapping[str, str] | None = None,
) -> str:
    """Return the name of the program to run.

    Args:
      kernel: the entry point's name, for messages.
      implementation: one of `IMPLEMENTATIONS`; None takes "pallas_tpu" where the default
        backend is a TPU and the kernel has it, else "xla". Programs compiled ahead of
        time for another platform than the default backend must name theirs.
      supported: what the kernel has, "xla" included.
      missing: why the kernel lacks some implementation, as "rule; fix".

    Raises:
      ValueError: the name is unknown, or the kernel does not have it.
    """
    if implementation is None:
        name = _BY_PLATFORM.get(jax.default_backend(), "xla")
        return name if name in supported else "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation of {kernel} must be None or one of {sorted(supported)};"
            f" got {implementation!r}; leave it out to choose by platform"
        )
    if implementation not in supported:
        why = (missing or {}).get(implementation)
        raise ValueError(
            f"{kernel} has no implementation {implementation!r};"
            f" {why or f'choose one of {sorted(supported)}'}"
        )
    return implementation


def on_hopper() -> bool:
    """Return whether the default backend's first device is a GPU of that generation.

    What is written for its matrix unit runs on no older and no newer one.
    """
    if jax.default_backend() != "gpu":
        return False
    return getattr(jax.devices()[0], "compute_capability", None) == "9.0"


def require_hopper_operands(q: Array, most: int) -> None:
    """Check what "pallas_gpu" of the attention kernels takes.

    Raises:
      ValueError: q is not bfloat16, or its last dimension is greater than `most`.
    """
    if q.dtype != jnp.bfloat16 or q.shape[-1] > most:
        raise ValueError(
            f"'pallas_gpu' takes bfloat16 and heads up to {most}; got {q.dtype.name} and"
            f" {q.shape[-1]}; convert them or use 'xla'"
        )


def interpret_params(implementation: str) -> pltpu.InterpretParams | bool:
    """Return what `pallas_call` takes as `interpret`.

    The interpreter fills memory that nobody wrote with NaN and refuses reads beyond a
    buffer, so that a kernel which relies on either fails.
    """
    return pltpu.InterpretParams() if implementation == "interpret" else False


def require_shape(name: str, array: Array, letters: str, sizes: dict[str, int]) -> None:
    """Check the dimensions of an argument, and record those met for the first time.

    Args:
      name: the argument's name, for the message.
      array: the argument.
      letters: names of its dimensions, separated by spaces, such as "B Tq Hq D".
      sizes: known sizes by dimension; new ones are added.

    Raises:
      ValueError: the rank or a known size differs.
    """
    names = letters.split()
    shape = jnp.shape(array)
    if len(shape) != len(names):
        raise ValueError(
            f"{name} must have the {len(names)} dimensions [{', '.join(names)}];"
            f" got shape {list(shape)}; reshape it"
        )
    for letter, size in zip(names, shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(
                f"{letter} of {name} [{', '.join(names)}] must be {sizes[letter]} as in"
                f" the arguments before it; got shape {list(shape)}; pass matching arrays"
            )


def require_dtype(name: str, array: Array, allowed: Collection[str]) -> None:
    """Check an argument's dtype.

    Raises:
      ValueError: the dtype's name is not among `allowed`.
    """
    got = np.dtype(jnp.result_type(array)).name
    if got not in allowed:
        raise ValueError(
            f"{name} must be of dtype {' or '.join(sorted(allowed))}; got {got};"
            " convert it with .astype"
        )


def require_groups(query_heads: int, key_heads: int) -> None:
    """Check that every key head serves the same number of query heads (GQA).

    Raises:
      ValueError: the number of query heads is not a multiple of that of key heads.
    """
    if key_heads < 1 or query_heads % key_heads:
        raise ValueError(
            "the number of query heads must be a multiple of that of key heads; got"
            f" {query_heads} and {key_heads}; repeat key heads or drop query heads"
        )
