"""What every conversion is: options, a plan made from checks alone, and its numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from soler1_jax.checkpoints.orbax_arrays import PIECE_BYTES
from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.wording import AnyWording

SHARD_BYTES = 5_000_000_000
"""The most that a safetensors file holds, as in the released checkpoints."""

Count = Callable[[int], None]
"""Called with the bytes of a piece that is about to be on disk."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is converted.

    Attributes:
      to: what is written.
      dtype: of every tensor; None keeps what there is.
      shard_bytes: the most that a safetensors file holds.
      wording: how a rewarder is asked; None keeps what there is.
      piece_bytes: about the most that is read, turned and written at once.
    """

    to: Literal["orbax", "hf"] = "orbax"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    shard_bytes: int = SHARD_BYTES
    wording: AnyWording | None = None
    piece_bytes: int = PIECE_BYTES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A conversion whose source has been checked.

    Attributes:
      files: of the source, without those that are copied along.
      tensors: in the Hugging Face checkpoint.
      nbytes: of the weights to be written.
      about: for `write_about`.
      write: writes the weights into a folder.
    """

    files: Sequence[Path]
    tensors: int
    nbytes: int
    about: Mapping[str, Any]
    write: Callable[[Path, Count], None]


def target_dtype(options: Options, dtype: np.dtype) -> np.dtype:
    """The dtype in which numbers of another one are written."""
    return dtype if options.dtype is None else np.dtype(jnp.dtype(options.dtype))


def cast(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Rounds numbers to a dtype; UserError if a finite one has no finite neighbour."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype(dtype)
    lost = ~np.isfinite(rounded)
    if lost.any() and np.isfinite(values[lost]).any():
        raise UserError(
            f"weights must fit the dtype they are stored in; {name} has a number "
            f"beyond {dtype.name}; choose another --dtype"
        )
    return rounded
