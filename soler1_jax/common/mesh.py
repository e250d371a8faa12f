"""The device mesh and the one table from logical axis names to mesh axes.

Mesh axes: `data` (batch), `fsdp` (batch and parameters), `tensor` (heads, hidden).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soler1_jax.common.errors import UserError

AXES = ("data", "fsdp", "tensor")

# Logical axis of an array -> mesh axes. Names that are absent are replicated.
RULES: dict[str, tuple[str, ...] | str | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
    "layers": None,
}


def make_mesh(shape: Sequence[int] | None = None) -> Mesh:
    """Returns a mesh over all devices.

    Args:
      shape: sizes of (data, fsdp, tensor); by default every device is on `data`.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices()
    return mesh_of(devices, (len(devices), 1, 1) if shape is None else shape)


def mesh_of(devices: Sequence[jax.Device], shape: Sequence[int]) -> Mesh:
    """Returns a mesh over given devices, also over those that are only described.

    Args:
      devices: in the order in which they fill the mesh, its last axis first.
      shape: sizes of (data, fsdp, tensor).

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    shape = tuple(shape)
    if len(shape) != len(AXES) or int(np.prod(shape)) != len(devices):
        raise UserError(
            f"a mesh has {len(AXES)} sizes ({', '.join(AXES)}) whose product is the "
            f"device count {len(devices)}; got {shape}; change --mesh"
        )
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def writing_mesh(mesh: Mesh, heads: int) -> Mesh:
    """Returns a mesh over the same devices for writing text.

    A token reads all weights and does little with them. Spread over `fsdp` they would be
    summed over it at every token, and whole on every device they would be read as often;
    over `tensor` each device reads its part.

    Args:
      mesh: for learning.
      heads: key-value heads, which `tensor` divides.
    """
    tensor = math.gcd(mesh.size, heads)
    return Mesh(mesh.devices.reshape(-1, 1, tensor), AXES)


def partition_spec(
    logical: Sequence[str | None], shape: Sequence[int], mesh: Mesh
) -> PartitionSpec:
    """Maps the logical axes of one array to mesh axes.

    An axis whose length the mesh axes do not divide stays replicated, so that small
    models run on any mesh.
    """
    spec: list[Any] = []
    used: set[str] = set()
    for name, length in zip(logical, shape, strict=True):
        axes = RULES.get(name) if name else None
        axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
        size = int(np.prod([mesh.shape[a] for a in axes])) if axes else 1
        if axes and length % size == 0 and not used & set(axes):
            used |= set(axes)
            spec.append(axes if len(axes) > 1 else axes[0])
        else:
            spec.append(None)
    return PartitionSpec(*spec)


def shardings(logical: Any, shapes: Any, mesh: Mesh) -> Any:
    """Maps a tree of logical axes and one of shapes to a tree of NamedSharding."""
    leaves, treedef = jax.tree.flatten(shapes)
    names = treedef.flatten_up_to(logical)
    specs = [
        NamedSharding(mesh, partition_spec(n, s.shape, mesh))
        for n, s in zip(names, leaves, strict=True)
    ]
    return treedef.unflatten(specs)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
