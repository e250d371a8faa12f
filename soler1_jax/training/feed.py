"""Batches for the devices, read ahead while the previous step runs.

A batch is a function of its step alone, so the position in the data is the step and
nothing else has to be remembered when a run continues.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError

# A tree of numpy arrays.
Batch = Any
_AHEAD = 2


def place(batch: Batch, mesh: Mesh) -> Any:
    """Moves a batch to the devices, split along its first axis.

    Args:
      batch: arrays with the same first axis. In a run of several processes each
        passes its own part, see `local_rows`.
      mesh: whose `data` and `fsdp` axes share the batch.
    """
    sharding = meshes.batch_sharding(mesh)

    def put(value: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(value))

    return jax.tree.map(put, batch)


def local_rows(count: int, mesh: Mesh) -> range:
    """Which rows of a batch of `count` the devices of this process hold.

    Raises:
      UserError: they do not lie side by side, or the mesh does not divide the batch.
    """
    sharding = meshes.batch_sharding(mesh)
    places = sharding.addressable_devices_indices_map((count,)).values()
    parts = sorted({range(*rows.indices(count)) for (rows,) in places}, key=min)
    if any(a.stop != b.start for a, b in itertools.pairwise(parts)):
        raise UserError(
            "the devices of a process must hold rows side by side; those of mesh "
            f"{dict(mesh.shape)} do not; choose another --mesh"
        )
    return range(parts[0].start, parts[-1].stop)


def local(array: jax.Array) -> np.ndarray:
    """The rows of an array that this process's devices hold, in their order."""
    if array.is_fully_addressable:
        return np.asarray(array)
    # Devices along other axes of the mesh hold the same rows.
    rows = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(rows[first].data) for first in sorted(rows)])


def mean_over_processes(values: np.ndarray) -> np.ndarray:
    """The mean of what every process found of as much, the same shape everywhere."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values)).mean(axis=0)


def check_divides(size: int, mesh: Mesh, option: str) -> None:
    """Raises UserError unless the mesh can split a batch of `size`."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if size < 1 or size % parts:
        raise UserError(
            f"a batch must split evenly over the mesh's data x fsdp = {parts} devices; "
            f"got {option} {size}; give a positive multiple of {parts}"
        )


def batches(
    read: Callable[[int], Batch], first: int, end: int, mesh: Mesh
) -> Iterator[Any]:
    """Yields the batches of steps `first` to `end` - 1, on the devices.

    Args:
      read: step -> batch; runs in one other thread, in order.
      first: the first step.
      end: the step after the last one.
      mesh: see `place`.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Any]] = deque()
        following = first
        while following < end or waiting:
            while following < end and len(waiting) < _AHEAD:
                waiting.append(pool.submit(lambda s: place(read(s), mesh), following))
                following += 1
            yield waiting.popleft().result()
