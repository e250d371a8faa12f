"""Collectives of a compiled program: which, over which axes of the mesh, how many bytes.

Bytes are those of one chip. `buffer_bytes` are those of the array that all chips of a
group hold or make together: the result of an all-gather, the operand of the others.
`wire_bytes` are those that a chip receives if the n chips of a group pass parts around a
ring: (n-1)/n of the buffer, twice that for an all-reduce, which is a reduce-scatter and
an all-gather (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from soler1_jax.planning.hlo import Computation, Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

UNKNOWN = ("unknown",)
"""Stands for axes where groups of chips are no product of axes of the mesh."""

_EXPLICIT = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?(?:,|\s|$)"
)
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](.*?) \{([^}]*)\}")
_TURNED = re.compile(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


class Collective(NamedTuple):
    """Like collectives of a program, taken together."""

    kind: str
    axes: tuple[str, ...]  # of the mesh; or UNKNOWN
    chips: int  # of a group
    count: int  # in one run of the program
    buffer_bytes: int  # of all of them
    wire_bytes: int  # of all of them


def read(module: Module, axes: Mapping[str, int]) -> list[Collective]:
    """Collectives of a program, those in loops as often as the loops run.

    Args:
      module: the program.
      axes: sizes of the mesh by name, in its order.

    Returns:
      One for each kind and choice of axes, the most wire bytes first.
    """
    sums: dict[tuple, list[int]] = {}
    for name, computation in module.computations.items():
        for instruction in computation.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS or not module.runs[name]:
                continue
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                # A TPU's reduce-scatter: of the sum, each chip keeps a slice.
                kind = "reduce-scatter"
            groups = _groups(instruction, math.prod(axes.values()))
            size = max((len(set(group)) for group in groups), default=1)
            if size < 2:
                continue
            times = module.runs[name]
            whole = _buffer(kind, instruction, computation, size)
            over = spanned(groups, axes, paired=kind == "collective-permute")
            total = sums.setdefault((kind, over, size), [0, 0, 0])
            total[0] += times
            total[1] += times * whole
            total[2] += times * _wire(kind, whole, size)
    found = [Collective(*key, *total) for key, total in sums.items()]
    return sorted(found, key=lambda one: -one.wire_bytes)


def spanned(
    groups: Sequence[Sequence[int]], axes: Mapping[str, int], *, paired: bool = False
) -> tuple[str, ...]:
    """Axes over which groups of chips exchange, wholly or in part.

    Args:
      groups: chips by their place in the mesh.
      axes: sizes by name.
      paired: whether groups are the pairs of a permutation.

    Returns:
      Names in the mesh's order; UNKNOWN where a group is no block of the mesh.
    """
    varied = set()
    for group in groups:
        places = np.unravel_index(sorted(set(group)), tuple(axes.values()))
        counts = [len(set(along.tolist())) for along in places]
        if not paired and math.prod(counts) != len(places[0]):
            return UNKNOWN
        varied |= {name for name, n in zip(axes, counts, strict=True) if n > 1}
    return tuple(name for name in axes if name in varied) or UNKNOWN


def _wire(kind: str, whole: int, size: int) -> int:
    if kind in ("collective-permute", "collective-broadcast"):
        return whole
    passes = 2 if kind == "all-reduce" else 1
    return passes * whole * (size - 1) // size


def _buffer(kind: str, one: Instruction, within: Computation, size: int) -> int:
    operands = sum(within[name].bytes for name in one.operands if name in within)
    return operands * size if kind == "all-gather" else operands


def _groups(one: Instruction, chips: int) -> list[list[int]]:
    """Reads the groups of an instruction; all chips are one where it names none."""
    pairs = _PAIRS.search(one.attributes)
    if pairs:
        found = [_numbers(pair) for pair in re.findall(r"\{([^}]*)\}", pairs[1])]
        return [pair for pair in found if pair[0] != pair[1]]
    iota = _IOTA.search(one.attributes)
    if iota:
        return _iota(_numbers(iota[1]), _numbers(iota[2]), iota[3])
    named = _MESH.search(one.attributes)
    if named:
        return _named(named[1], named[2], named[3])
    explicit = _EXPLICIT.search(one.attributes)
    found = re.findall(r"\{([\d,]*)\}", explicit[1]) if explicit else []
    return [_numbers(group) for group in found] or [list(range(chips))]


def _iota(shape: list[int], counted: list[int], turned: str | None) -> list[list[int]]:
    """[8,8]<=[4,4,4]T(0,2,1): counted up in a grid, turned, cut into groups."""
    return _order(counted, turned).reshape(shape).tolist()


def _order(counted: list[int], turned: str | None) -> np.ndarray:
    order = np.arange(math.prod(counted)).reshape(counted)
    return order.transpose(_numbers(turned)) if turned else order


def _named(sizes: str, devices: str, chosen: str) -> list[list[int]]:
    """mesh['a'=4,'b'=16], device_ids=([16,4]T(1,0)) {'b','a':(1)2}: along some axes.

    'a':(p)n is the part of n of an axis of p x n x rest.
    """
    grid = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    parts = {name: [size] for name, size in grid.items()}
    for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", chosen):
        before, size = int(before), int(size)
        parts[name] = [before, size, grid[name] // (before * size)]
    shape, last = [], []
    along = re.findall(r"'([^']+)'", chosen)
    for name, split in parts.items():
        if name in along:
            last.append(len(shape) + len(split) // 2)
        shape += split
    turned = _TURNED.search(devices)
    order = _order(_numbers(turned[1]), turned[2]) if turned else _order(shape, None)
    order = order.reshape(shape)
    first = [axis for axis in range(len(shape)) if axis not in last]
    count = math.prod(shape[axis] for axis in last)
    return order.transpose(first + last).reshape(-1, count).tolist()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
