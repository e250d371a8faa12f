"""safetensors folders: which tensor is where, reading parts of one, writing in order.

A checkpoint is one `model.safetensors`, or several files with an index that says which
tensor is where. Headers are checked by the safetensors library. The numbers are read
and written by ordinary file calls: a mapped file would count as this process's memory,
and the library's writer wants all tensors at once.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from soler1_jax.common.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = "model-{:05d}-of-{:05d}.safetensors"

# The format's names of the dtypes that weights may have.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      name: in the file.
      path: of the file.
      shape: of the tensor.
      kind: the format's name of its dtype, such as BF16.
      offset: of its first byte in the file.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    kind: str
    offset: int

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers; `kind` must be one of `DTYPES`."""
        return DTYPES[self.kind]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, low: int = 0, high: int | None = None) -> np.ndarray:
        """Reads the entries `low` to `high - 1` (default: all) along the first axis.

        Raises:
          UserError: the file cannot be read, or has been cut since it was listed.
        """
        shape = self.shape
        if shape:
            high = shape[0] if high is None else high
            shape = (high - low, *shape[1:])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        count = math.prod(shape)
        try:
            values = np.fromfile(
                self.path, self.dtype, count, offset=self.offset + low * row
            )
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if values.size != count:
            raise _unreadable(self.path, "it has become shorter")
        return values.reshape(shape)


def locate_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Says where each tensor of a checkpoint is.

    Raises:
      UserError: there are no safetensors files, or one of them is missing or damaged.
    """
    if not (folder / INDEX).is_file():
        path = folder / SINGLE
        if not path.is_file():
            raise UserError(
                f"a Hugging Face checkpoint holds {SINGLE} or {INDEX}; {folder} has "
                "neither; check the path, or save it as safetensors"
            )
        return _list(path)
    try:
        places = json.loads((folder / INDEX).read_text())["weight_map"]
        files = {str(name): folder / file for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / INDEX} must be an index of safetensors files and is not; "
            "copy it again"
        ) from error
    held = {path: _list(path) for path in sorted(set(files.values()))}
    for name, path in files.items():
        if name not in held[path]:
            raise UserError(
                f"{INDEX} says that {path} holds {name}; it does not; copy the "
                "whole folder again"
            )
    return {name: held[path][name] for name, path in files.items()}


def _list(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, in its order."""
    try:
        # Checks the header and that the file is as long as the header says.
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            name,
            path,
            tuple(at["shape"]),
            at["dtype"],
            8 + length + at["data_offsets"][0],
        )
        for name, at in header.items()
    }


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(f"{path} cannot be read as safetensors ({reason}); copy it again")


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """A tensor to be written.

    Attributes:
      name: in the checkpoint.
      shape: of the tensor.
      dtype: one of `DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_files(
    tensors: Iterable[NewTensor], shard_bytes: int
) -> dict[str, list[NewTensor]]:
    """Distributes tensors over files in their order, as `save_pretrained` does.

    Args:
      tensors: of the checkpoint.
      shard_bytes: the most that one file holds; a larger tensor has a file of its own.

    Returns:
      File name -> the tensors it holds.
    """
    shards: list[list[NewTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {_SHARD.format(i + 1, len(shards)): s for i, s in enumerate(shards)}


def index_of(files: Mapping[str, Sequence[NewTensor]]) -> dict[str, Any]:
    """The contents of the index of several files."""
    held = [tensor for tensors in files.values() for tensor in tensors]
    return {
        "metadata": {
            "total_parameters": sum(math.prod(t.shape) for t in held),
            "total_size": sum(t.nbytes for t in held),
        },
        "weight_map": dict(
            sorted((t.name, file) for file, ts in files.items() for t in ts)
        ),
    }


def write_file(
    path: Path,
    tensors: Sequence[NewTensor],
    pieces: Callable[[NewTensor], Iterable[np.ndarray]],
) -> None:
    """Writes one file, piece by piece.

    Args:
      path: of the file.
      tensors: what it holds.
      pieces: gives a tensor's numbers in its dtype, in order; a piece is written before
        the next is asked for.
    """
    # Wide numbers first, so that each starts at a multiple of its size.
    tensors = sorted(tensors, key=lambda t: -t.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in pieces(tensor):
                # A view as bytes: bfloat16 has no buffer of its own.
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
