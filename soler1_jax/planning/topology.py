"""Machines that are not there: "v5p:4x4x4" as devices that programs are compiled for.

libtpu describes TPUs of any shape without one (the extra `aot`). GPUs have no such
compiler here: a plan for them is made from that for a TPU v5p of as many chips.
"""

import dataclasses
import functools
import importlib.util
import math
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.planning.chips import CHIPS, Chip

STAND_IN = "v5p"
"""The chip whose compiler answers for those that have none here."""

_MOST = 8192
_ENVIRONMENT = {
    # no metadata server is there to be asked
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # otherwise a lock file lets one process in and the others fail
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and how they lie.

    Attributes:
      chip: their kind.
      shape: chips along each side.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def estimated(self) -> bool:
        """Whether another chip's compiler has to answer."""
        return not self.chip.described

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse(text: str) -> Topology:
    """Reads "v5p:4x4x4", "v6e:8x8" or "h100:8".

    Raises:
      UserError: an unknown chip, or a shape that it cannot have.
    """
    name, _, sizes = text.partition(":")
    if name not in CHIPS:
        raise UserError(
            "a topology is a chip and its shape, e.g. v5p:4x4x4 or h100:8; got "
            f"{text!r}{nearest_hint(name, CHIPS)}"
        )
    chip = CHIPS[name]
    parts = sizes.split("x")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(
            f"the shape of a topology is whole numbers with x between; got {text!r}; "
            f"give e.g. {name}:{'x'.join(['4'] * chip.sides)}"
        )
    shape = tuple(map(int, parts))
    if len(shape) != chip.sides or min(shape) < 1:
        raise UserError(
            f"a topology of {name} has {chip.sides} side(s) of 1 or more; got {text!r}; "
            f"give e.g. {name}:{'x'.join(['4'] * chip.sides)}"
        )
    if math.prod(shape) > _MOST:
        raise UserError(
            f"a topology has {_MOST} chips at most; got {text!r}; shorten a side"
        )
    topology = Topology(chip, shape)
    if topology.estimated:
        stand_in(topology)
    return topology


def stand_in(topology: Topology) -> Topology:
    """What is compiled for: the topology itself, or a TPU v5p of as many chips.

    Raises:
      UserError: there is none with so many chips.
    """
    if not topology.estimated:
        return topology
    count = topology.count
    if count & (count - 1):
        raise UserError(
            f"a plan for {topology.chip.name} is made from one for a {STAND_IN}, whose "
            f"chips are a power of two; got {topology}; give 1, 2, 4, 8, ... chips"
        )
    third, rest = divmod(count.bit_length() - 1, 3)
    # The first sides are the smaller ones, as 2x2x4 is and 4x2x2 is not.
    powers = sorted(third + (side < rest) for side in range(3))
    if count == 4:
        powers = [1, 1, 0]
    return Topology(CHIPS[STAND_IN], tuple(2**power for power in powers))


@functools.cache
def devices(topology: Topology) -> Sequence[jax.Device]:
    """The described chips, in the order of their ids.

    Raises:
      UserError: libtpu is missing or refuses the shape.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "a plan is made by the TPU's compiler, libtpu, which needs no TPU; it is not "
            "installed; install the extra: pip install '.[aot]'"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Loops are told apart by their names; a program kept from older code has older ones.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    # A host holds two by two chips, unless a side is odd.
    host = [2 if side % 2 == 0 else 1 for side in topology.shape[:2]]
    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=str(topology),
            chips_per_host_bounds=(*host, 1),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"libtpu must be able to describe a topology; of {topology} it says: "
            f"{error}; choose a shape of its documentation, e.g. v5p:4x4x4"
        ) from error
    return described.devices


def check_mesh(topology: Topology, shape: Sequence[int]) -> None:
    """Raises UserError unless sizes of (data, fsdp, tensor) use every chip."""
    if min(shape) < 1 or math.prod(shape) != topology.count:
        raise UserError(
            "a mesh has sizes of data, fsdp and tensor whose product is the chip count; "
            f"got {tuple(shape)} for the {topology.count} of {topology}; change --mesh"
        )


def make_mesh(topology: Topology, shape: Sequence[int]) -> Mesh:
    """A mesh over what `stand_in` is compiled for, in the order of a real run.

    Args:
      topology: of the plan.
      shape: sizes of (data, fsdp, tensor).

    Raises:
      UserError: see `check_mesh` and `devices`.
    """
    check_mesh(topology, shape)
    return meshes.mesh_of(devices(stand_in(topology)), shape)
