"""The static shape of packed rows, and where in them the next record finds room.

Letters as in data/packing.py.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from soler1_jax.common.errors import UserError, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The static shape of a batch.

    Attributes:
      rows: B.
      length: T.
      pictures: N; at least 1, so that models always have a picture to trace.
      patches: P, a multiple of the squared merge size.
      shared: whether the P places of one picture may hold several, one after another,
        so that small pictures beside large ones waste none. The mask of the patches then
        tells them apart, see `model.patches.Patches`.
    """

    rows: int
    length: int
    pictures: int
    patches: int
    shared: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for sizes that are not positive."""
        for name in ("rows", "length", "pictures", "patches"):
            require_positive(name, getattr(self, name))


class Size(NamedTuple):
    """What of a row a record takes."""

    tokens: int
    patches: tuple[int, ...]  # of each of its pictures


class Place(NamedTuple):
    """Where a picture lies in a row."""

    picture: int  # which of the row's N
    first: int  # its first patch there
    number: int  # which of the pictures there it is, from 1 on


class Room:
    """What is still free in B rows; numbers only, so that a plan costs little."""

    def __init__(self, shape: RowShape) -> None:
        self._shape = shape
        self._tokens = np.zeros(shape.rows, np.int64)  # used
        held = (shape.rows, shape.pictures)
        self._patches = np.zeros(held, np.int64)  # used
        self._numbers = np.zeros(held, np.int64)  # pictures
        self.records = [0] * shape.rows

    def find(self, size: Size) -> int | None:
        """The first row with room for a record."""
        enough = np.flatnonzero(self._tokens + size.tokens <= self._shape.length)
        return next((row for row in enough.tolist() if self.fits(size, row)), None)

    def fits(self, size: Size, row: int) -> bool:
        """Whether a row has room for a record."""
        tokens = self._tokens[row] + size.tokens
        return tokens <= self._shape.length and self._places(size, row) is not None

    def take(self, size: Size, row: int) -> tuple[int, list[Place]]:
        """Books a row with room: returns its first free token and its pictures' places."""
        places = self._places(size, row)
        for place, patches in zip(places, size.patches, strict=True):
            self._patches[row, place.picture] += patches
            self._numbers[row, place.picture] = place.number
        start = int(self._tokens[row])
        self._tokens[row] += size.tokens
        self.records[row] += 1
        return start, places

    def _places(self, size: Size, row: int) -> list[Place] | None:
        """The first place of each picture; None if one finds none."""
        used, numbers = self._patches[row].copy(), self._numbers[row].copy()
        places = []
        for patches in size.patches:
            free = used + patches <= self._shape.patches
            if not self._shape.shared:
                free &= numbers == 0
            if not free.any():
                return None
            at = int(np.argmax(free))
            numbers[at] += 1
            places.append(Place(at, int(used[at]), int(numbers[at])))
            used[at] += patches
        return places


def check_all_fit(sizes: Sequence[Size], shape: RowShape, record: str) -> None:
    """`check_fits` of many records, called `record` and their number."""
    first: dict[Size, int] = {}
    for number, size in enumerate(sizes):
        first.setdefault(size, number)
    for size, number in first.items():
        check_fits(size, shape, f"{record} {number}")


def check_fits(size: Size, shape: RowShape, record: str) -> None:
    """Raises UserError unless an empty row holds the record.

    Args:
      size: of the record.
      shape: of the rows.
      record: what to call it.
    """
    largest = max(size.patches, default=0)
    found = [
        (size.tokens, shape.length, "tokens"),
        (largest, shape.patches, "patches of a picture"),
    ]
    if not shape.shared:
        found.append((len(size.patches), shape.pictures, "pictures"))
    for wanted, limit, name in found:
        if wanted > limit:
            raise UserError(
                f"a row holds {limit} {name}; {record} has {wanted}; make rows larger or "
                "leave the record out"
            )
    if Room(dataclasses.replace(shape, rows=1)).find(size) is None:
        total = shape.pictures * shape.patches
        raise UserError(
            f"a row holds {total} patches; the pictures of {record} have "
            f"{sum(size.patches)} and do not fit; make rows larger or leave it out"
        )
