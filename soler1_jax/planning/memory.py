"""What a compiled program needs of a chip's memory, by its compiler's account."""

import re
from typing import Any, NamedTuple

from soler1_jax.planning.chips import GIB

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_ALL = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_TEMPORARIES = re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\)")


class Memory(NamedTuple):
    """Bytes of one chip."""

    arguments: int
    outputs: int
    temporaries: int
    aliased: int  # outputs that lie where arguments lay
    code: int

    @property
    def total(self) -> int:
        """All that must be there at once."""
        outputs = self.outputs - self.aliased
        return self.arguments + outputs + self.temporaries + self.code


def of(executable: Any) -> Memory:
    """Asks a compiled program."""
    told = executable.memory_analysis()
    return Memory(
        arguments=told.argument_size_in_bytes,
        outputs=told.output_size_in_bytes,
        temporaries=told.temp_size_in_bytes,
        aliased=told.alias_size_in_bytes,
        code=told.generated_code_size_in_bytes,
    )


def too_much(message: str, arguments: int) -> int | None:
    """Bytes that a program needs which the compiler refused for want of memory.

    Args:
      message: of its error.
      arguments: bytes of the program's arguments, which it may leave out.

    Returns:
      Bytes of one chip, or None where memory was not the reason.
    """
    whole, part = _ALL.search(message), _TEMPORARIES.search(message)
    found = whole or part
    if found is None:
        return None
    told = int(float(found[1]) * _UNITS[found[2]])
    return told if whole else told + arguments
