"""Batches for the devices, read ahead while the previous step runs.

A batch is a function of its step alone, so the position in the data is the step and
nothing else has to be remembered when a run continues.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError

Batch = Mapping[str, np.ndarray]
_AHEAD = 2


def place(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """Moves a batch to the devices, split along its first axis.

    Args:
      batch: arrays with the same first axis. In a run of several processes each
        passes its own part.
      mesh: whose `data` and `fsdp` axes share the batch.
    """
    sharding = meshes.batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


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
) -> Iterator[dict[str, Any]]:
    """Yields the batches of steps `first` to `end` - 1, on the devices.

    Args:
      read: step -> batch; runs in one other thread, in order.
      first: the first step.
      end: the step after the last one.
      mesh: see `place`.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[dict[str, jax.Array]]] = deque()
        following = first
        while following < end or waiting:
            while following < end and len(waiting) < _AHEAD:
                waiting.append(pool.submit(lambda s: place(read(s), mesh), following))
                following += 1
            yield waiting.popleft().result()
