"""What a compiled program needs of a chip's memory, by its compiler's account."""

import re
from typing import Any, NamedTuple

from soler1_jax.planning.chips import GIB

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")


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


def too_much(message: str) -> int | None:
    """Bytes that a program needs which the compiler refused for want of memory.

    Args:
      message: of its error.

    Returns:
      Bytes of one chip, or None where memory was not the reason.
    """
    found = _USED.search(message)
    if found is None:
        return None
    return int(float(found[1]) * _UNITS[found[2]])
