"""A converted model's parameters as a Hugging Face checkpoint in safetensors files."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.conversion import (
    Count,
    Options,
    Plan,
    cast,
    target_dtype,
)
from soler1_jax.checkpoints.converted import ABOUT, WEIGHTS, About, checked_folder
from soler1_jax.checkpoints.hf_config import CONFIG, family_of
from soler1_jax.checkpoints.hf_names import Tensor, Transform
from soler1_jax.checkpoints.orbax_arrays import ArrayReader
from soler1_jax.checkpoints.safetensors_files import (
    DTYPES,
    INDEX,
    NewTensor,
    index_of,
    plan_files,
    write_file,
)
from soler1_jax.checkpoints.transpose import contiguous
from soler1_jax.common.run import write_json


def plan_hf(folder: Path, options: Options) -> Plan:
    """Checks a converted folder; see `checked_folder` for the errors."""
    config, about = checked_folder(folder)
    tensors = {tensor.name: tensor for tensor in hf_names.tensors(config)}
    arrays = {
        tensor.path: ArrayReader(folder / WEIGHTS, ".".join(tensor.path))
        for tensor in tensors.values()
    }
    if about.head_twice:
        family = family_of(config)
        tensors[family.HEAD] = tensors[family.EMBEDDINGS]
    dtypes = {
        name: _dtype(name, arrays[tensor.path], about, options)
        for name, tensor in tensors.items()
    }
    released = {about.names.get(name, name): name for name in tensors}
    new = [
        NewTensor(name, tensors[released[name]].shape, dtypes[released[name]])
        for name in sorted(released, key=_order)
    ]
    files = plan_files(new, options.shard_bytes)

    def pieces(tensor: NewTensor, count: Count) -> Iterator[np.ndarray]:
        ours = tensors[released[tensor.name]]
        for values in _pieces(ours, arrays[ours.path]):
            values = contiguous(cast(ours.to_stored(values), tensor.dtype, tensor.name))
            count(values.nbytes)
            yield values

    def write(target: Path, count: Count) -> None:
        for name, held in files.items():
            write_file(target / name, held, functools.partial(pieces, count=count))
        if len(files) > 1:
            write_json(target / INDEX, index_of(files))

    return Plan(
        files=[folder / CONFIG, folder / ABOUT, *(folder / f for f in about.files)],
        tensors=len(new),
        nbytes=sum(tensor.nbytes for tensor in new),
        about={},
        write=write,
    )


def _dtype(name: str, array: ArrayReader, about: About, options: Options) -> np.dtype:
    kind = about.dtypes.get(name)
    return target_dtype(options, array.dtype if kind is None else DTYPES[kind])


def _pieces(tensor: Tensor, array: ArrayReader) -> Iterator[np.ndarray]:
    """Reads what a tensor is of a parameter chunk by chunk, in the tensor's order."""
    same = tensor.transform is Transform.SAME
    rows = array.chunk[0 if tensor.layer is None else 1] if same else array.chunk[-1]
    for low in range(0, tensor.shape[0], rows):
        yield array.read(tensor.part(low, min(low + rows, tensor.shape[0])))


def _order(name: str) -> list[str | int]:
    """Sorts layer 10 behind layer 9."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
