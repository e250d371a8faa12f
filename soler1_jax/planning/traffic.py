"""Bytes that a compiled program reads from and writes to a chip's large memory.

As XLA's cost analysis counts them, but with loops as often as they run, and without what
lies in the memory on the chip. A kernel counts with its arguments and results once.
"""

from soler1_jax.planning.hlo import Array, Computation, Instruction, Module

# They move nothing by themselves.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "optimization-barrier",
    "domain",
    "async-update",
}


def hbm_bytes(module: Module) -> int:
    """Bytes read and written by all runs of all instructions, on one device."""
    inside = {
        name
        for computation in module.computations.values()
        for instruction in computation.values()
        if instruction.opcode not in ("while", "conditional", "call")
        for name in instruction.called
    }
    return sum(
        module.runs[name] * _moved(module, computation, instruction)
        for name, computation in module.computations.items()
        if name not in inside
        for instruction in computation.values()
    )


def _moved(module: Module, computation: Computation, one: Instruction) -> int:
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0
    operands = [computation[name] for name in one.operands if name in computation]
    if one.opcode in ("slice", "dynamic-slice"):
        return 2 * _hbm(one.arrays)
    if one.opcode == "slice-start":
        # Where from, where to and a token; only the slice is read.
        return one.arrays[1].bytes + _hbm(one.arrays[1:2])
    if one.opcode == "dynamic-update-slice":
        return 2 * _hbm(operands[1].arrays)
    if one.opcode == "fusion":
        return _fused(module, one, operands)
    results = one.arrays
    if one.opcode == "copy-start":
        # Where to, where from and a token.
        results = results[:1]
    elif one.opcode.endswith("-start"):
        # Its operands are the first of its results.
        results = results[len(operands) :]
    return _hbm(results) + sum(_hbm(operand.arrays) for operand in operands)


def _fused(module: Module, one: Instruction, operands: list[Instruction]) -> int:
    """A fusion reads what it needs of an operand, and may write into it in place."""
    inside = module.computations[one.called[0]]
    moved = 0
    for place, operand in enumerate(operands):
        whole = _hbm(operand.arrays)
        moved += min(whole, _read(module, inside, place, whole)[0]) if whole else 0
    roots = [i for i in inside.values() if i.root]
    if roots and roots[0].opcode == "tuple":
        roots = [inside[name] for name in roots[0].operands]
    for root, array in zip(roots, one.arrays, strict=False):
        while root.opcode in ("bitcast", "convert", "copy") and root.operands:
            root = inside[root.operands[0]]
        if root.opcode == "dynamic-update-slice" and array.in_hbm:
            moved += inside[root.operands[1]].bytes
        else:
            moved += _hbm([array])
    return moved


def _read(
    module: Module, inside: Computation, place: int, whole: int
) -> tuple[int, bool]:
    """What a fusion reads of its operand number `place`: slices of it, or all.

    Returns:
      Bytes, and whether the operand itself is what the fusion gives.
    """
    read, queue = 0, [_parameter(inside, place)]
    given = False
    while queue:
        value = queue.pop()
        given |= value.root
        for user in inside.values():
            if value.name not in user.operands:
                continue
            first = user.operands[0] == value.name
            if user.opcode == "bitcast":
                queue.append(user)
            elif user.opcode in ("slice", "dynamic-slice", "gather") and first:
                read += user.bytes
            elif user.opcode == "dynamic-update-slice" and first:
                # What is not updated stays where it is.
                continue
            elif user.opcode == "fusion":
                within = module.computations[user.called[0]]
                at = user.operands.index(value.name)
                more, passed = _read(module, within, at, whole)
                read += more
                if passed:
                    queue.append(user)
            else:
                return whole, False
    return read, given


def _parameter(inside: Computation, place: int) -> Instruction:
    return next(
        i
        for i in inside.values()
        if i.opcode == "parameter" and int(i.literal) == place
    )


def _hbm(arrays: tuple[Array, ...] | list[Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_hbm)
