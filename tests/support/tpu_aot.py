"""Compile for TPUs without one: libtpu's compiler against a described topology.

Several processes may do so at once. Where libtpu is not installed (the extra `aot`),
the tests that ask for a topology are skipped.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
"""Generations to compile for, and a description of four chips of each."""

_ENVIRONMENT = {
    # no metadata server is there to be asked
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # otherwise /tmp/libtpu_lockfile lets one process in and the others fail
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Compiled(NamedTuple):
    """What the compiler says of a program.

    Attributes:
      executable: the compiled program; `as_text()` shows its collectives.
      memory: `memory_analysis()`: bytes of arguments, outputs and temporaries per chip.
      cost: `cost_analysis()`: "flops", "bytes accessed" and more; a Pallas kernel counts
        with what its `cost_estimate` says.
    """

    executable: Any
    memory: Any
    cost: dict[str, float]


@functools.cache
def devices(generation: str) -> Sequence[jax.Device]:
    """Return the four described chips of a generation; skips without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install '.[aot]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[generation]
    )
    return described.devices


def mesh(generation: str, shape: Sequence[int], names: Sequence[str]) -> Mesh:
    """Return a mesh over the first chips of a generation."""
    count = int(np.prod(shape))
    return Mesh(np.array(devices(generation)[:count]).reshape(shape), names)


def compile_for(
    generation: str,
    function: Callable[..., Any],
    *shapes: Any,
    mesh: Mesh | None = None,
    specs: Sequence[PartitionSpec] = (),
    **jit: Any,
) -> Compiled:
    """Compile a function for a TPU generation.

    Args:
      generation: a key of `TOPOLOGIES`.
      function: what to compile.
      *shapes: pytrees of arrays or `jax.ShapeDtypeStruct`, one an argument.
      mesh: chips to spread the arguments over; one chip without.
      specs: with `mesh`, one PartitionSpec an argument, for all its leaves.
      **jit: options of `jax.jit`.
    """
    if mesh is None:
        sharding = SingleDeviceSharding(devices(generation)[0])
        shardings = [jax.tree.map(lambda _: sharding, shape) for shape in shapes]
    else:
        shardings = [
            jax.tree.map(lambda _, s=spec: NamedSharding(mesh, s), shape)
            for shape, spec in zip(shapes, specs, strict=True)
        ]
    arguments = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        list(shapes),
        list(shardings),
    )
    executable = jax.jit(function, **jit).lower(*arguments).compile()
    return Compiled(
        executable, executable.memory_analysis(), executable.cost_analysis() or {}
    )
