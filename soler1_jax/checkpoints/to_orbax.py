"""A Hugging Face checkpoint's tensors as an Orbax checkpoint of our parameters."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.conversion import (
    Count,
    Options,
    Plan,
    cast,
    target_dtype,
)
from soler1_jax.checkpoints.converted import WEIGHTS
from soler1_jax.checkpoints.hf_config import CONFIG, family_of
from soler1_jax.checkpoints.hf_heads import head_fields
from soler1_jax.checkpoints.hf_names import Tensor, Transform
from soler1_jax.checkpoints.hf_weights import checked_tensors, read_config
from soler1_jax.checkpoints.orbax_arrays import (
    Index,
    PieceSource,
    chunk_rows,
    write_arrays,
)
from soler1_jax.checkpoints.safetensors_files import StoredTensor
from soler1_jax.checkpoints.transpose import contiguous

Stored = dict[str, StoredTensor]


def plan_orbax(folder: Path, options: Options) -> Plan:
    """Checks a Hugging Face folder; see `checked_tensors` for the errors."""
    config = read_config(folder)
    family = family_of(config)
    stored = checked_tensors(folder, config)
    groups = hf_names.by_parameter(config)
    dtypes = {path: _dtype(group, stored, options) for path, group in groups.items()}
    kept = {t.name: dtypes[path] for path, group in groups.items() for t in group}
    twice = config.text.tie_embeddings and family.HEAD in stored
    if twice:
        kept[family.HEAD] = kept[family.EMBEDDINGS]
    # Tensors of one parameter may have different dtypes; it has one that holds all.
    others = {n: stored[n].kind for n, d in kept.items() if stored[n].dtype != d}
    sizes = [
        int(np.prod(tensor.shape)) * dtypes[path].itemsize
        for path, group in groups.items()
        for tensor in group
    ]

    def write(target: Path, count: Count) -> None:
        sources = {
            path: _source(group, stored, dtypes[path], options.piece_bytes, count)
            for path, group in groups.items()
        }
        write_arrays(target / WEIGHTS, sources)

    return Plan(
        files=[folder / CONFIG, *sorted({s.path for s in stored.values()})],
        tensors=len(stored),
        nbytes=sum(sizes),
        about={
            "dtypes": {} if options.dtype else others,
            "names": {n: s.name for n, s in stored.items() if s.name != n},
            "head_twice": twice,
            **head_fields(config, family.HEAD in stored),
        },
        write=write,
    )


def _dtype(group: list[Tensor], stored: Stored, options: Options) -> np.dtype:
    kinds = [target_dtype(options, stored[tensor.name].dtype) for tensor in group]
    return functools.reduce(lambda a, b: np.dtype(jnp.promote_types(a, b)), kinds)


def array_layout(
    group: Sequence[Tensor], itemsize: int, piece_bytes: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """How a parameter lies on disk.

    Args:
      group: its tensors, layer by layer.
      itemsize: bytes of a number.
      piece_bytes: about the most that a chunk has.

    Returns:
      Its shape, the shape of a chunk, and the entries of a tensor along its first axis
      that fill a chunk.
    """
    first = group[0]
    layers = len({tensor.layer for tensor in group})
    beside = len(group) // layers
    shape = (*first.our_shape[:-1], first.our_shape[-1] * beside)
    rows = chunk_rows(first.shape, itemsize, piece_bytes)
    if beside > 1:
        # No chunk holds parts of two tensors.
        rows = next(r for r in range(rows, 0, -1) if first.shape[0] % r == 0)
    if first.transform is Transform.SAME:
        chunk = (rows, *shape[1:])
    else:
        chunk = (shape[0], rows)
    if first.layer is None:
        return shape, chunk, rows
    return (layers, *shape), (1, *chunk), rows


def _source(
    group: list[Tensor],
    stored: Stored,
    dtype: np.dtype,
    piece_bytes: int,
    count: Count,
) -> PieceSource:
    """One parameter, made from its tensors."""
    widest = max(dtype.itemsize, *(stored[t.name].dtype.itemsize for t in group))
    shape, chunk, rows = array_layout(group, widest, piece_bytes)

    def pieces() -> Iterable[tuple[Index, np.ndarray]]:
        for tensor in group:
            for low in range(0, tensor.shape[0], rows):
                high = min(low + rows, tensor.shape[0])
                values = stored[tensor.name].read(low, high)
                values = tensor.to_ours(cast(values, dtype, tensor.name))
                count(values.nbytes)
                # TensorStore turns arrays slowly.
                yield tensor.part(low, high), contiguous(values)

    return PieceSource(shape, dtype, chunk, pieces)
