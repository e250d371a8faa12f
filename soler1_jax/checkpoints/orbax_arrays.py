"""An Orbax checkpoint of parameters, written and read piece by piece.

Our trees hold the layers of a scanned stack as one array: gigabytes for a released
model. Orbax takes arrays in memory, so a leaf here is a `PieceSource`, which makes its
numbers while they are written, and a type handler of Orbax's own kind writes them. What
is on disk is an ordinary Orbax checkpoint, readable by `StandardCheckpointer` and by
anything that reads zarr: one zarr3 array a parameter with the shape of the parameter,
cut into chunks of one layer and at most `PIECE_BYTES`, each a file.
(The alternatives: an array a layer would make a tree that no model has, and arrays
written beside Orbax would need its metadata files imitated.)

Chunks are neither compressed nor summed: bfloat16 weights shrink by a quarter at best,
and checksums made reading four times slower on one core. A chunk that is missing or too
short is an error when it is read, never zeros.
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from soler1_jax.common.errors import UserError, native_disk_errors
from soler1_jax.model.functional import Params

PIECE_BYTES = 64 << 20
"""About the most that is read, turned and written at once."""

Index = tuple[int | slice, ...]
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PieceSource:
    """An array that is made while it is written.

    Attributes:
      shape: of the array.
      dtype: of the array.
      chunk: shape of a chunk on disk.
      pieces: yields (where, numbers) until everything has been given once; every piece
        is whole chunks. At most one is being written while the next is made.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    pieces: Callable[[], Iterable[tuple[Index, np.ndarray]]]


class _PieceHandler(ocp.type_handlers.NumpyHandler):
    """Writes PieceSources; to readers they are numpy arrays."""

    async def serialize(
        self,
        values: Sequence[PieceSource],
        infos: Sequence[Any],
        args: Any = None,
    ) -> list[Any]:
        """Writes arrays one after another; nothing is left to be waited for."""
        order = sorted(zip(values, infos, strict=True), key=lambda pair: pair[1].name)
        for value, info in order:
            await info.await_path_creation()
            store = await ts.open(_spec(Path(info.path), value), create=True)
            await self._write(store, value.pieces())
        return []

    async def _write(
        self, store: ts.TensorStore, pieces: Iterable[tuple[Index, np.ndarray]]
    ) -> None:
        """Writes a piece while the next one is made."""
        last = None
        try:
            for where, numbers in pieces:
                if last is not None:
                    await last
                last = store[where].write(numbers)
        finally:
            # Also after an error: what is being written cannot be removed.
            if last is not None:
                await last


def write_arrays(folder: Path, sources: Mapping[tuple[str, ...], PieceSource]) -> None:
    """Writes an Orbax checkpoint, without other processes of the job.

    Args:
      folder: where; must not exist.
      sources: path in the tree of parameters -> array. Their pieces are made in the order
        of `in_order`.
    """
    tree: dict[str, Any] = {}
    for path, source in sources.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = source
    registry = ocp.type_handlers.create_type_handler_registry(
        (PieceSource, _PieceHandler())
    )
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}
    )
    with _quiet(), native_disk_errors(folder):
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,
            use_zarr3=True,
            type_handler_registry=registry,
            multiprocessing_options=alone,
        )
        writer = ocp.Checkpointer(handler, multiprocessing_options=alone)
        with contextlib.closing(writer):
            writer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def in_order(sources: Mapping[tuple[str, ...], PieceSource]) -> list[PieceSource]:
    """Arrays as `write_arrays` writes them."""
    return [sources[path] for path in sorted(sources, key=".".join)]


def check_arrays(folder: Path, like: Params) -> None:
    """Compares an Orbax checkpoint's list of arrays with the parameters of a model.

    Raises:
      UserError: an array is missing, left over or of another shape.
    """
    wanted = {
        array_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]
    }
    held = {path.parent.name for path in folder.glob("*/zarr.json")}
    for name in (*sorted(wanted.keys() - held), *sorted(held - wanted.keys())):
        raise UserError(
            f"weights must fit config.json; {folder} "
            f"{'lacks' if name in wanted else 'has'} {name}; convert the model again"
        )
    for name, shape in wanted.items():
        try:
            about = json.loads((folder / name / "zarr.json").read_text())
            found = tuple(about["shape"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(folder) from error
        if found != shape:
            raise UserError(
                f"weights must fit config.json; {name} should have shape "
                f"{list(shape)} and has {list(found)} in {folder}; convert the model "
                "again"
            )


class ArrayReader:
    """Reads parts of one array of an Orbax checkpoint.

    Attributes:
      shape: of the array.
      chunk: shape of what is read at once anyhow.
      dtype: of the array.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Opens it; see `array_name`. UserError if it is missing or damaged."""
        self._folder = folder
        with _damage(folder):
            self._store = ts.open(_spec(folder / name), open=True).result()
        self.shape: tuple[int, ...] = tuple(self._store.shape)
        self.chunk: tuple[int, ...] = tuple(self._store.chunk_layout.read_chunk.shape)
        self.dtype = np.dtype(self._store.dtype.numpy_dtype)

    def read(self, where: Index) -> np.ndarray:
        """Reads a part; UserError if it is missing or damaged."""
        with _damage(self._folder):
            return self._store[where].read().result()


def read_arrays(folder: Path, like: Params) -> Params:
    """Reads an Orbax checkpoint onto devices; each gets only its share.

    Args:
      folder: written by `write_arrays`, or by Orbax from such a tree.
      like: tree of jax.ShapeDtypeStruct with shardings; numbers are converted.

    Raises:
      UserError: an array is missing, damaged, or of another shape.
    """
    # What the host reads at once. Orbax refuses an array that is larger than this.
    largest = max(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(like))
    limit = 2 * largest / 1e9 + 1
    args = ocp.args.PyTreeRestore(
        like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
    )
    with _damage(folder), _quiet():
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=math.ceil(limit))
        with contextlib.closing(ocp.Checkpointer(handler)) as reader:
            return reader.restore(folder.absolute(), args=args)


def array_name(path: Sequence[Any]) -> str:
    """The folder in which Orbax keeps an array, from its path in the tree."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def chunk_rows(shape: tuple[int, ...], itemsize: int, piece_bytes: int) -> int:
    """Rows of a piece such that it has at most `piece_bytes`, and at least one row."""
    row = math.prod(shape[1:]) * itemsize
    count = max(1, math.ceil(shape[0] * row / piece_bytes))
    return math.ceil(shape[0] / count)


def _spec(path: Path, new: PieceSource | None = None) -> dict[str, Any]:
    """TensorStore's description of an array, to be opened or to be made."""
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path.absolute()}/"},
        "fill_missing_data_reads": False,
    }
    if new is not None:
        # Waiting for the disk after each chunk took most of the time of small models.
        # What a loss of power cuts off is told from the files' lengths.
        spec["context"] = {"file_io_sync": False}
        spec["store_data_equal_to_fill_value"] = True
        spec["metadata"] = {
            "shape": new.shape,
            "data_type": new.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": new.chunk},
            },
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        }
    return spec


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's remarks out of the progress bar's way."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        # Among the last: a device whose memory is full.
        raise
    # Damage shows in as many ways as there are readers of the files.
    except Exception as error:
        _log.debug("%s", folder, exc_info=error)
        raise _damaged(folder) from error


def _damaged(folder: Path) -> UserError:
    return UserError(
        f"a converted model must be as it was written; a file in {folder} is missing "
        "or damaged; convert the model again"
    )
