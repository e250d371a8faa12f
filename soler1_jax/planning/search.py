"""The largest batch that fits, by few compilations."""

from collections.abc import Callable
from typing import NamedTuple

from soler1_jax.common.errors import UserError


class Trial(NamedTuple):
    """A batch, counted in units, and the bytes that it needs."""

    units: int
    bytes: int


def largest(
    needs: Callable[[int], int], limit: int, *, most: int = 4096, part: int = 8
) -> list[Trial]:
    """Finds how many units fit, from 1 up.

    What a batch needs grows about linearly, so a line through two trials tells where to
    look next; what it suggests is kept within what is known to fit and known not to.

    Args:
      needs: units -> bytes; each call is a compilation.
      limit: bytes that there are.
      most: units at which the search ends.
      part: ends when fewer than this part of the units that fit are left to be tried; 0
        to go on to the last one.

    Returns:
      All trials in their order; the largest that fits is the answer.

    Raises:
      UserError: not even one unit fits.
    """
    trials = [Trial(1, needs(1))]
    if trials[0].bytes > limit:
        raise UserError(
            f"even the smallest batch must fit; it needs {trials[0].bytes:,} bytes of "
            f"{limit:,}; use a larger topology, another --mesh or more --microbatches"
        )
    low, high, halve = 1, most + 1, False
    while high - low > max(1, low // part if part else 1):
        gap = high - low
        units = (low + high) // 2 if halve else _along(trials, limit, low, high)
        trials.append(Trial(units, needs(units)))
        if trials[-1].bytes > limit:
            high = units
        else:
            low = units
        # A line that creeps along one end gives way to halves.
        halve = high <= most and 2 * (high - low) > gap
    return trials


def _along(trials: list[Trial], limit: int, low: int, high: int) -> int:
    """Units between two that are known, by the line through the last two trials."""
    if len(trials) == 1:
        return 2
    one, other = trials[-2:]
    slope = (other.bytes - one.bytes) / (other.units - one.units)
    units = one.units + int((limit - one.bytes) / slope) if slope > 0 else 2 * low
    return min(max(units, low + 1), high - 1)
