"""How long a step takes at least: matrix products, memory and links at their peaks.

Source: roofline model (Williams, Waterman and Patterson 2009,
doi:10.1145/1498765.1498785), with the interconnect as a third roof.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from soler1_jax.planning.collectives import UNKNOWN, Collective
from soler1_jax.planning.topology import Topology


class Roofline(NamedTuple):
    """Seconds of a step on each chip."""

    compute: float
    hbm: float
    interconnect: dict[str, float]  # by axes of the mesh, joined by "+"

    @property
    def parts(self) -> dict[str, float]:
        """All of them by name."""
        links = {f"interconnect over {a}": s for a, s in self.interconnect.items()}
        return {"compute": self.compute, "hbm": self.hbm, **links}

    @property
    def bound_by(self) -> str:
        """What takes longest."""
        return max(self.parts, key=self.parts.get)

    @property
    def overlapped(self) -> float:
        """Seconds if all happens at the same time."""
        return max(self.parts.values())

    @property
    def one_by_one(self) -> float:
        """Seconds if nothing overlaps."""
        return sum(self.parts.values())


def roofline(
    topology: Topology,
    mesh: Mesh,
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[Collective],
) -> Roofline:
    """Divides what one chip does by what it can do.

    Args:
      topology: whose chips' peaks count.
      mesh: over its chips, or over those that stand in for them.
      flops: of one chip.
      hbm_bytes: read and written by one chip.
      collectives: of the program.
    """
    links: dict[str, float] = {}
    for one in collectives:
        seconds = one.wire_bytes / rate(topology, mesh, one.axes)
        name = "+".join(one.axes)
        links[name] = links.get(name, 0.0) + seconds
    chip = topology.chip
    return Roofline(flops / chip.flops, hbm_bytes / chip.hbm_rate, links)


def rate(topology: Topology, mesh: Mesh, axes: tuple[str, ...]) -> float:
    """Bytes/s that a chip receives when all exchange over some axes of the mesh.

    On a torus, data enters by one link for each side along which the group of chips is
    spread, by two where the group fills a side that is a ring. If it leaves out chips
    between, their groups use the same links. On a switch, the chips of a group in one node
    share their node's way to the others.

    Args:
      topology: of the chips.
      mesh: over them.
      axes: names of the mesh's axes; UNKNOWN for one link.
    """
    chip = topology.chip
    if axes == UNKNOWN:
        return chip.between_rate or chip.link_rate
    first = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    if chip.node:
        places = np.arange(mesh.size).reshape(mesh.devices.shape)[first].ravel()
        nodes = places // chip.node
        inside = int(np.sum(nodes == nodes[0]))
        if inside == len(nodes):
            return chip.link_rate
        return min(chip.link_rate, inside * chip.between_rate)
    group = np.array([device.coords for device in np.ravel(mesh.devices[first])])
    links = 0.0
    for side, along in enumerate(group.T):
        seen = len(set(along.tolist()))
        if seen < 2:
            continue
        length = topology.shape[side]
        ring = seen == length and length % chip.ring == 0
        gaps = seen / int(along.max() - along.min() + 1)
        links += 2.0 if ring else gaps
    return links * chip.link_rate
