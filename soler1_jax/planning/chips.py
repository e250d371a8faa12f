"""What chips can do at most, as their makers state it.

Sources, read in November 2026. TPUs: Google Cloud's pages on the system architecture of
v5e, v5p and v6e (docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e). They state the
interconnect of a chip as the sum of both directions of all its ports; a link here is one
direction of one port. GPU: NVIDIA's H100 data sheet (SXM; dense products, half of what it
states with sparsity; NVLink 900 GB/s in both directions together) and its DGX H100 data
sheet (8 network adapters of 400 Gb/s for 8 GPUs).
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of chip.

    Attributes:
      name: as in a topology.
      flops: peak bfloat16 FLOP/s of matrix products.
      hbm_bytes: that a program may use.
      hbm_rate: bytes/s read and written.
      link_rate: bytes/s in one direction of one link.
      sides: of a topology: 3 for a 3D torus, 1 where a switch joins all chips.
      ring: a side of a multiple of this many chips is closed to a ring, so that data
        travels both ways around it; 0 where that has no meaning.
      node: chips that the links join; 0 for all of a topology.
      between_rate: bytes/s of a chip in one direction to other nodes.
      described: whether libtpu can describe it.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_rate: float
    link_rate: float
    sides: int
    ring: int = 0
    node: int = 0
    between_rate: float = 0.0
    described: bool = True


# What a TPU program may use was asked of libtpu 0.0.42.1: it states it when it refuses a
# program that is too large. It is less than the 16, 95 and 32 GB of the pages.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e",
            flops=197e12,
            hbm_bytes=int(15.75 * GIB),
            hbm_rate=819e9,
            link_rate=400e9 / 8,
            sides=2,
            ring=16,
        ),
        Chip(
            name="v5p",
            flops=459e12,
            hbm_bytes=int(95.74 * GIB),
            hbm_rate=2765e9,
            link_rate=1200e9 / 12,
            sides=3,
            ring=4,
        ),
        Chip(
            name="v6e",
            flops=918e12,
            hbm_bytes=int(31.25 * GIB),
            hbm_rate=1638e9,
            link_rate=800e9 / 8,
            sides=2,
            ring=16,
        ),
        Chip(
            name="h100",
            flops=989e12,
            hbm_bytes=int(80e9),
            hbm_rate=3350e9,
            link_rate=900e9 / 2,
            sides=1,
            node=8,
            between_rate=400e9 / 8,
            described=False,
        ),
    )
}
