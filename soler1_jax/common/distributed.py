"""One program on many hosts, as the environment says.

Under SLURM (`srun`), Open MPI and GKE the environment shows that there are others, and JAX
finds them. On TPU VMs it does not show: SOLER1_DISTRIBUTED=1 tells, and JAX asks the VM's
metadata. Elsewhere three variables tell: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. Where none of this is, there is one host.
"""

import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from soler1_jax.common.errors import UserError

_ADDRESS = "JAX_COORDINATOR_ADDRESS"
_COUNTS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TOLD = "SOLER1_DISTRIBUTED"
# How many processes a job has, where one of a single process may run in the same way.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Hosts of a slice, separated by commas; the first host of several slices.
_SLICE, _SLICES = "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"


def start() -> None:
    """Joins the other processes of the job, if there are some; the first thing to do.

    Raises:
      UserError: the environment names a coordinator and not the processes, or the others
        cannot be reached.
    """
    if jax.distributed.is_initialized() or not _is_one_of_many(os.environ):
        return
    # Ignored by accelerators; CPUs have no other collectives between processes.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    options = {}
    if address := os.environ.get(_ADDRESS):
        try:
            count, number = (int(os.environ[name]) for name in _COUNTS)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{_ADDRESS} comes with {' and '.join(_COUNTS)}, two whole numbers; got "
                f"{', '.join(f'{n}={os.environ.get(n)!r}' for n in _COUNTS)}; set both"
            ) from error
        options = {
            "coordinator_address": address,
            "num_processes": count,
            "process_id": number,
        }
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            "the processes of a job must reach each other; this one could not join "
            f"({reason}); check that all are running, and the coordinator's address"
        ) from error


def count() -> int:
    """How many processes the job has."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def agreed(value: bool) -> bool:
    """What the first process says; all processes ask at the same time."""
    if count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(value)))


def whole(array: jax.Array) -> np.ndarray:
    """Brings an array to every host; all processes ask for it at the same time."""
    if count() > 1:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _is_one_of_many(environment: Mapping[str, str]) -> bool:
    told = environment.get(_TOLD, "0") not in ("", "0")
    tasks = (environment.get(name, "1") for name in _TASKS)
    return (
        told
        or bool(environment.get(_ADDRESS))
        or any(count.isdigit() and int(count) > 1 for count in tasks)
        or "," in environment.get(_SLICE, "")
        or bool(environment.get(_SLICES))
    )
