"""Reads the text of a compiled program: its instructions, and how often each runs.

The compiler's own cost analysis counts the body of a loop once, whatever its length, and
says nothing of collectives; so its text is read. Bytes are those of the arrays of one
device.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_WIDTHS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_PARTS = re.compile(r"(condition|body)=%?([\w.\-]+)")
_SCOPES = re.compile(r'op_name="([^"]*)"')
_INDEX = re.compile(r"index=(\d+)")
_SPACE = re.compile(r"S\((\d+)\)")


class Array(NamedTuple):
    """One array of an instruction's result."""

    dtype: str
    bytes: int
    in_hbm: bool  # rather than in a memory on the chip


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    arrays: tuple[Array, ...]  # several for a tuple
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses
    attributes: str
    root: bool

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        if self.opcode in ("async-update", "async-done"):
            # They go on with what `async-start` called.
            return []
        found = _CALLED.findall(self.attributes)
        return [n for one, many in found for n in ([one] if one else _names(many))]

    @property
    def bytes(self) -> int:
        """Of its whole result."""
        return sum(array.bytes for array in self.arrays)


Computation = dict[str, Instruction]


class Module:
    """A compiled program.

    Args:
      text: `as_text()` of a compiled program.
      unknown_trips: how often a loop is taken to run whose length the text does not tell,
        by a scope of `jax.named_scope` in which it stands; "" for all others.

    Attributes:
      computations: by name, their instructions by name.
      entry: name of the one that runs first.
    """

    def __init__(
        self, text: str, unknown_trips: Mapping[str, int] | None = None
    ) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry, self._unknown_trips = "", unknown_trips or {"": 1}
        current: Computation = {}
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif _INSTRUCTION.match(line):
                instruction = _parse(line)
                current[instruction.name] = instruction

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs; every branch of a conditional counts."""
        callers: dict[str, list[tuple[str, int]]] = {}
        for name, instructions in self.computations.items():
            for instruction in instructions.values():
                times = 1
                if instruction.opcode == "while":
                    found = self._trips(instruction, instructions)
                    times = self._most(instruction) if found is None else found
                for called in instruction.called:
                    callers.setdefault(called, []).append((name, times))

        @functools.cache
        def count(name: str) -> int:
            if name == self.entry:
                return 1
            return sum(times * count(by) for by, times in callers.get(name, ()))

        return {name: count(name) for name in self.computations}

    @property
    def unknown_loops(self) -> int:
        """Loops whose length the text does not tell."""
        return sum(
            one.opcode == "while" and self._trips(one, computation) is None
            for computation in self.computations.values()
            for one in computation.values()
        )

    def _most(self, loop: Instruction) -> int:
        found = _SCOPES.search(loop.attributes)
        scopes = found[1].split("/") if found else []
        told = [self._unknown_trips[s] for s in scopes if s in self._unknown_trips]
        return told[-1] if told else self._unknown_trips.get("", 1)

    def _trips(self, loop: Instruction, within: Computation) -> int | None:
        """How often a loop runs; None if that is not told.

        Compilers for CPUs and GPUs say it. In what that for TPUs returns, a loop that JAX
        made of a scan adds 1 to a counter until it is a constant.
        """
        told = _TRIPS.search(loop.attributes)
        if told:
            return int(told[1])
        parts = dict(_PARTS.findall(loop.attributes))
        condition = self.computations[parts["condition"]]
        body = self.computations[parts["body"]]
        compared = _root(condition)
        before, after = within[loop.operands[0]], _root(body)
        if compared.opcode != "compare" or "direction=LT" not in compared.attributes:
            return None
        counter, limit = (condition[name] for name in compared.operands)
        place = _INDEX.search(counter.attributes)
        if place is None or not _is_whole(limit):
            return None
        if {before.opcode, after.opcode} != {"tuple"}:
            return None
        place = int(place[1])
        start = _resolve(within, before.operands[place])
        added = _resolve(body, after.operands[place])
        steps = [i for i in (_resolve(body, n) for n in added.operands) if _is_whole(i)]
        counts = added.opcode == "add" and [int(i.literal) for i in steps] == [1]
        if not counts or not _is_whole(start):
            return None
        return max(int(limit.literal) - int(start.literal), 0)


def _root(computation: Computation) -> Instruction:
    return next(one for one in computation.values() if one.root)


def _resolve(computation: Computation, name: str) -> Instruction:
    """What a copy is of."""
    while computation[name].opcode in ("copy", "bitcast"):
        name = computation[name].operands[0]
    return computation[name]


def _is_whole(one: Instruction) -> bool:
    """Whether it is a constant whole number."""
    return one.opcode == "constant" and one.arrays[0].dtype[0] in "su"


def _parse(line: str) -> Instruction:
    start = _INSTRUCTION.match(line)
    kind, rest = _balanced(line[start.end() :])
    opcode, _, rest = rest.lstrip().partition("(")
    inside, attributes = _balanced("(" + rest)
    return Instruction(
        name=start[2],
        arrays=tuple(map(_array, _ARRAY.findall(kind))),
        opcode=opcode.strip(),
        operands=tuple(_NAME.findall(inside)),
        literal=inside[1:-1],
        attributes=attributes,
        root=bool(start[1]),
    )


def _balanced(text: str) -> tuple[str, str]:
    """Cuts behind the first parenthesis that closes, or at the first space without."""
    if not text.startswith("("):
        head, _, rest = text.partition(" ")
        return head, rest
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[: place + 1], text[place + 1 :]
    return text, ""


def _array(match: tuple[str, str, str]) -> Array:
    kind, sizes, layout = match
    count = math.prod(int(size) for size in sizes.split(",") if size)
    width = _WIDTHS.get(kind)
    if width is None:
        # s32, u4, f8e4m3fn: a letter, then the bits
        width = int(re.match(r"[a-z](\d+)", kind)[1])
    space = _SPACE.search(layout)
    return Array(kind, -(-count * width // 8), space is None or space[1] == "0")


def _names(text: str) -> list[str]:
    return [name.strip().lstrip("%") for name in text.split(",") if name.strip()]
