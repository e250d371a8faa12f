"""Collectives are read from programs: bytes, axes, and how often."""

import json
import os
import subprocess
import sys

import collective_cases
import pytest
from collective_cases import AXES, BYTES

from soler1_jax.planning import topology
from soler1_jax.planning.collectives import UNKNOWN, read
from soler1_jax.planning.hlo import Module

GRID = {"data": 2, "fsdp": 4, "tensor": 8}


def _one(attributes, kind="all-reduce"):
    text = f"""
ENTRY %main (p: f32[64]) -> f32[64] {{
  %p = f32[64]{{0}} parameter(0)
  ROOT %it = f32[64]{{0}} {kind}(%p), channel_id=1, {attributes}
}}"""
    (found,) = read(Module(text), GRID)
    return found


@pytest.mark.parametrize(
    ("groups", "axes", "chips"),
    [
        ("replica_groups=[8,8]<=[64], to_apply=%add", ("tensor",), 8),
        ("replica_groups=[16,4]<=[2,4,8]T(0,2,1), to_apply=%add", ("fsdp",), 4),
        ("replica_groups=[32,2]<=[2,32]T(1,0), to_apply=%add", ("data",), 2),
        # of tensor only two by two
        ("replica_groups=[4,16]<=[8,8]T(1,0), x", ("data", "fsdp", "tensor"), 16),
        ("replica_groups=[8,8]<=[2,4,8]T(2,0,1), x", ("data", "fsdp"), 8),
        ("replica_groups={}, to_apply=%add", ("data", "fsdp", "tensor"), 64),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=8] {'b'}, x", ("fsdp",), 4),
        ("replica_groups=mesh['a'=8,'b'=8] {'a','b'}, x", tuple(GRID), 64),
        ("replica_groups=mesh['a'=8,'b'=8] {'a':(1)2}, x", ("data",), 2),
        ("replica_groups=mesh['a'=8,'b'=8] {'a':(2)4}, x", ("fsdp",), 4),
        (
            "replica_groups=mesh['a'=8,'b'=1,'c'=8], device_ids=([8,8]T(1,0)) {'a'}, x",
            ("tensor",),
            8,
        ),
        ("replica_groups=[16,4]<=[64], x", ("tensor",), 4),
    ],
)
def test_groups_are_told_in_many_ways(groups, axes, chips):
    found = _one(groups)
    assert (found.axes, found.chips) == (axes, chips)
    assert found.wire_bytes == 2 * 256 * (chips - 1) // chips


def test_groups_that_are_listed():
    pairs = ",".join(f"{{{i},{i + 32}}}" for i in range(32))
    assert _one(f"replica_groups={{{pairs}}}, x").axes == ("data",)
    crossed = ",".join(f"{{{i},{63 - i}}}" for i in range(32))
    assert _one(f"replica_groups={{{crossed}}}, x").axes == UNKNOWN


def test_a_chip_alone_exchanges_nothing():
    text = "ENTRY %m (p: f32[4]) -> f32[4] {\n  %p = f32[4] parameter(0)\n"
    text += "  %r = f32[4] all-reduce(%p), replica_groups=[64,1]<=[64], x\n}"
    assert read(Module(text), GRID) == []


@pytest.fixture(scope="module")
def cases():
    """Compiled for eight CPU devices."""
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, collective_cases.__file__],
        env=environment,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def _check(texts):
    """What can be counted by hand, whoever compiled it."""

    def of(name, **options):
        found = read(Module(texts[name], **options), AXES)
        return {(f.kind, f.axes): f for f in found}

    one = of("gather")["all-gather", ("fsdp",)]
    assert (one.chips, one.count) == (2, 1)
    assert (one.buffer_bytes, one.wire_bytes) == (BYTES, BYTES // 2)
    two = of("gather over two")["all-gather", ("data", "tensor")]
    assert (two.chips, two.wire_bytes) == (4, BYTES * 3 // 4)
    shift = of("shift")["collective-permute", ("data",)]
    assert (shift.count, shift.wire_bytes) == (1, BYTES)
    for name, times in (("loop", 7), ("nested", 21)):
        summed = of(name)["all-reduce", ("tensor",)]
        assert (summed.count, summed.chips) == (times, 2), name
        assert summed.buffer_bytes == times * BYTES
        assert summed.wire_bytes == times * BYTES
    assert of("until")["all-reduce", ("data",)].count == 1
    loops = {name: Module(text).unknown_loops for name, text in texts.items()}
    assert {name for name, count in loops.items() if count} == {"until"}
    for trips, count in (
        ({"": 63}, 63),
        ({"": 63, "wait": 5}, 5),
        ({"wai": 63}, 1),
    ):
        found = of("until", unknown_trips=trips)["all-reduce", ("data",)]
        assert found.count == count, trips
    scattered = of("scatter")["reduce-scatter", ("tensor",)]
    # padded to whole tiles on a TPU
    assert BYTES <= scattered.buffer_bytes <= 1.1 * BYTES
    assert scattered.wire_bytes == scattered.buffer_bytes // 2


def test_programs_for_cpus(cases):
    _check(cases)


@pytest.mark.aot
def test_programs_for_tpus():
    _check(collective_cases.texts(topology.devices(topology.parse("v5p:2x2x2"))))
