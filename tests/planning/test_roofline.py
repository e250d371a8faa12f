"""Times follow from peaks, links and what lies between chips."""

from types import SimpleNamespace

import numpy as np
import pytest

from soler1_jax.planning import topology
from soler1_jax.planning.collectives import UNKNOWN, Collective
from soler1_jax.planning.roofline import rate, roofline

AXES = ("data", "fsdp", "tensor")


def _mesh(shape, sizes):
    """A mesh over a torus whose chips are taken in the order of their coordinates."""
    coords = list(np.ndindex(*shape))
    chips = np.empty(len(coords), object)
    for place, at in enumerate(coords):
        chips[place] = SimpleNamespace(coords=(*at, 0)[:3])
    devices = chips.reshape(sizes)
    return SimpleNamespace(axis_names=AXES, devices=devices, size=devices.size)


@pytest.mark.parametrize(
    ("text", "sizes", "axes", "links"),
    [
        # sides of four are rings of a v5p: two ways in
        ("v5p:4x4x4", (1, 64, 1), ("fsdp",), 6),
        ("v5p:4x4x4", (4, 4, 4), ("tensor",), 2),
        ("v5p:4x4x4", (4, 4, 4), ("data", "tensor"), 4),
        # half of a ring, and half of a ring with gaps whose chips share the links
        ("v5p:4x4x4", (1, 32, 2), ("tensor",), 1),
        ("v5p:4x4x4", (1, 32, 2), ("fsdp",), 4 + 2 / 3),
        ("v5p:2x2x2", (1, 8, 1), ("fsdp",), 3),
        # a side of eight is none of a v6e, one of sixteen is
        ("v6e:8x8", (1, 64, 1), ("fsdp",), 2),
        ("v6e:16x16", (1, 256, 1), ("fsdp",), 4),
        ("v6e:8x8", (1, 64, 1), UNKNOWN, 1),
    ],
)
def test_data_enters_by_the_sides_along_which_chips_are_spread(
    text, sizes, axes, links
):
    where = topology.parse(text)
    found = rate(where, _mesh(where.shape, sizes), axes)
    assert found == pytest.approx(links * where.chip.link_rate)


def test_a_node_has_its_switch_and_shares_its_way_to_others():
    chip = topology.parse("h100:8").chip

    def over(count, sizes, axes):
        where = topology.parse(f"h100:{count}")
        stand_in = topology.stand_in(where)
        return rate(where, _mesh(stand_in.shape, sizes), axes)

    assert over(8, (1, 8, 1), ("fsdp",)) == chip.link_rate
    assert over(64, (8, 1, 8), ("tensor",)) == chip.link_rate
    assert over(64, (8, 1, 8), ("data",)) == chip.between_rate
    assert over(64, (1, 64, 1), ("fsdp",)) == 8 * chip.between_rate


def test_the_longest_part_bounds_a_step():
    where = topology.parse("v5p:4x4x4")
    mesh, chip = _mesh(where.shape, (4, 4, 4)), where.chip
    over = Collective("all-reduce", ("tensor",), 4, 1, 0, round(2 * chip.link_rate))
    twice = [over, over._replace(kind="all-gather")]
    found = roofline(where, mesh, 3 * chip.flops, chip.hbm_rate, twice)
    assert found.parts == pytest.approx(
        {"compute": 3.0, "hbm": 1.0, "interconnect over tensor": 2.0}
    )
    assert found.bound_by == "compute" and found.overlapped == pytest.approx(3)
    assert found.one_by_one == pytest.approx(6)
    moved = roofline(where, mesh, 0, 7 * chip.hbm_rate, twice)
    assert (moved.bound_by, moved.overlapped) == ("hbm", 7)
    linked = roofline(where, mesh, 0, 0, twice)
    assert linked.bound_by == "interconnect over tensor"
    assert linked.overlapped == pytest.approx(2)
