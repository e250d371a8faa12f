"""Episodes kept in memory once they were read, up to a budget."""

import dataclasses
from collections.abc import Sequence
from typing import SupportsIndex

from soler1_jax.data.records import Episode


class Remembered(Sequence[Episode]):
    """A data source that reads each episode from disk only once.

    Small data sets are read many times over; decoding a record costs more than its
    part of a training step. Views that training does not look at are dropped.

    Args:
      source: random access to episodes.
      budget: bytes of pixels and labels that may be kept; the rest is read each time.
    """

    def __init__(self, source: Sequence[Episode], budget: int = 4 << 30):
        self._source, self._left = source, budget
        self._kept: dict[int, Episode] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index`, without the wrist view."""
        index = int(index)
        if index in self._kept:
            return self._kept[index]
        episode = dataclasses.replace(self._source[index], wrist=None)
        size = episode.external.nbytes + episode.semantic.nbytes + episode.facts.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[index] = episode
        return episode

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"Remembered({self._source!r})"
