"""Topologies are read as they are written, or refused in one line."""

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.planning import topology
from soler1_jax.planning.chips import CHIPS, GIB


@pytest.mark.parametrize(
    ("text", "shape", "count"),
    [
        ("v5p:4x4x4", (4, 4, 4), 64),
        ("v6e:8x8", (8, 8), 64),
        ("v5e:1x1", (1, 1), 1),
        ("h100:8", (8,), 8),
    ],
)
def test_a_topology_is_a_chip_and_its_shape(text, shape, count):
    found = topology.parse(text)
    assert (found.shape, found.count, str(found)) == (shape, count, text)
    assert found.chip is CHIPS[text.partition(":")[0]]
    assert found.estimated == text.startswith("h100")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v5q:4x4x4", "v5p"),
        ("", "v5p:4x4x4"),
        ("v5p", "v5p:4x4x4"),
        ("v5p:", "v5p:4x4x4"),
        ("v5p:4x4", "3 side"),
        ("v6e:2x2x2", "2 side"),
        ("v5e:0x4", "1 or more"),
        ("v5e:-2x-2", "whole numbers"),
        ("v5e:2x4x", "whole numbers"),
        ("v5e:²x4", "whole numbers"),
        ("v5e:1000x1000", "8192"),
        ("h100:6", "power of two"),
        ("h100:2x4", "1 side"),
    ],
)
def test_others_are_refused_in_one_line(text, hint):
    with pytest.raises(UserError, match=hint) as error:
        topology.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [2**n for n in range(14)])
def test_gpus_have_a_stand_in_of_as_many_chips(count):
    found = topology.stand_in(topology.parse(f"h100:{count}"))
    assert found.count == count and not found.estimated
    assert max(found.shape) <= 4 * min(found.shape)


def test_peaks_are_in_the_order_in_which_the_chips_are():
    v5e, v5p, v6e, h100 = (CHIPS[name] for name in ("v5e", "v5p", "v6e", "h100"))
    assert v5e.flops < v5p.flops < v6e.flops < h100.flops
    assert v5e.hbm_rate < v6e.hbm_rate < v5p.hbm_rate < h100.hbm_rate
    assert v5e.hbm_bytes < 16 * GIB < v6e.hbm_bytes < h100.hbm_bytes < v5p.hbm_bytes


@pytest.mark.aot
@pytest.mark.parametrize("text", ["v5p:4x4x4", "v6e:8x8", "v5e:2x4", "v5e:1x1"])
def test_libtpu_describes_the_chips(text):
    found = topology.parse(text)
    chips = topology.devices(found)
    coords = np.array([chip.coords for chip in chips])[:, : len(found.shape)]
    assert len(np.unique(coords, axis=0)) == found.count
    assert tuple(coords.max(axis=0) + 1) == found.shape
