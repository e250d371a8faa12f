"""Trained parameters as a converted folder, with all else from the model they began as."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.companions import stored_wording, write_companions
from soler1_jax.checkpoints.conversion import cast
from soler1_jax.checkpoints.converted import (
    WEIGHTS,
    checked_folder,
    is_converted,
    write_about,
)
from soler1_jax.checkpoints.hf_heads import head_fields
from soler1_jax.checkpoints.hf_names import Tensor
from soler1_jax.checkpoints.hf_weights import read_config
from soler1_jax.checkpoints.new_folder import new_folder
from soler1_jax.checkpoints.orbax_arrays import (
    PIECE_BYTES,
    Index,
    PieceSource,
    in_order,
    write_arrays,
)
from soler1_jax.checkpoints.to_orbax import array_layout
from soler1_jax.common import distributed
from soler1_jax.common.errors import UserError, require_space
from soler1_jax.model.functional import Functional, Params


def save_tuned(
    folder: str | Path,
    params: Params,
    base: str | Path,
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
    piece_bytes: int = PIECE_BYTES,
) -> None:
    """Writes a folder for `load_vlm` and `soler1 convert --to hf`.

    All processes of a job call it, since each holds a part of the parameters; the first
    one writes, piece by piece.

    Args:
      folder: to be made; must not exist, or be empty.
      params: as `load_vlm` returns them, on devices of the job.
      base: folder that `load_vlm` read them from; configuration, tokenizer, processor
        and words are copied from it.
      dtype: of the weights written.
      piece_bytes: about the most that is on the host at once.

    Raises:
      UserError: the parameters are not those of the base's configuration, a number does
        not fit the dtype, the folder is not empty, or the disk is full.
    """
    folder, base = Path(folder).absolute(), Path(base)
    config = checked_folder(base)[0] if is_converted(base) else read_config(base)
    leaves = _checked(Functional(config).shapes(), params, base)
    used = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if distributed.agreed(used):
        raise UserError(
            f"a new or empty folder is needed; {folder} is not; remove it or choose "
            "another"
        )
    kind = np.dtype(jnp.dtype(dtype))
    sources = {
        path: _source(group, leaves[path], kind, piece_bytes)
        for path, group in hf_names.by_parameter(config).items()
    }
    if not distributed.is_first():
        _take_part(folder, sources)
        return
    with contextlib.ExitStack() as stack:
        try:
            fresh = stack.enter_context(new_folder(folder))
            size = sum(math.prod(source.shape) for source in sources.values())
            require_space(fresh, size * kind.itemsize)
            write_companions(base, fresh, dtype, stored_wording(base))
        except Exception:
            # Whatever it is, the others must not wait for pieces to be asked for.
            distributed.agreed(False)
            raise
        distributed.agreed(True)
        write_arrays(fresh / WEIGHTS, sources)
        untied = not config.text.tie_embeddings
        write_about(fresh, source="trained", **head_fields(config, untied))


def _take_part(folder: Path, sources: Mapping[hf_names.Path, PieceSource]) -> None:
    """Gives the first process what it writes."""
    if not distributed.agreed(True):
        raise UserError(
            f"the first process makes {folder}, and could not; see its line; run the "
            "same command again"
        )
    for source in in_order(sources):
        for _ in source.pieces():
            pass


def _checked(shapes: Params, params: Params, base: Path) -> dict[hf_names.Path, Any]:
    """Path -> parameter."""
    found = _flat(params)
    for path, like in _flat(shapes).items():
        have = found[path].shape if path in found else None
        if have != like.shape:
            raise UserError(
                f"parameters must fit the configuration; {'/'.join(path)} should have "
                f"shape {list(like.shape)} for {base} and "
                f"{'is missing' if have is None else f'has {list(have)}'}; give the "
                "folder they were loaded from"
            )
    return found


def _flat(tree: Params) -> dict[hf_names.Path, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def _source(
    group: Sequence[Tensor], leaf: Any, dtype: np.dtype, piece_bytes: int
) -> PieceSource:
    widest = max(dtype.itemsize, leaf.dtype.itemsize)
    shape, chunk, rows = array_layout(group, widest, piece_bytes)

    def pieces() -> Iterator[tuple[Index, np.ndarray]]:
        for tensor in group:
            for low in range(0, tensor.shape[0], rows):
                where = tensor.part(low, min(low + rows, tensor.shape[0]))
                values = _fetch(leaf, where)
                yield where, cast(np.ascontiguousarray(values), dtype, tensor.name)

    return PieceSource(shape, dtype, chunk, pieces)


def _fetch(leaf: Any, where: Index) -> np.ndarray:
    """Brings a part of a parameter to the host."""
    ranges = [
        range(at, at + 1) if isinstance(at, int) else range(*at.indices(length))
        for at, length in itertools.zip_longest(
            where, leaf.shape, fillvalue=slice(None)
        )
    ]
    values = _slice(leaf, [r.start for r in ranges], tuple(map(len, ranges)))
    values = distributed.whole(values)
    return values[0] if isinstance(where[0], int) else values


@functools.partial(jax.jit, static_argnums=2)
def _slice(leaf: jax.Array, starts: list[int], sizes: tuple[int, ...]) -> jax.Array:
    # Where it starts is an argument: a program for each layer would take minutes.
    return jax.lax.dynamic_slice(leaf, starts, sizes)
