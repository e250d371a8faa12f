"""Episodes kept in memory once they were read, up to a budget."""

import dataclasses
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from soler1_jax.data.records import Episode


class Joined(Sequence[Episode]):
    """Several data sources, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Episode]]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index`, counted through all parts."""
        index = int(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"Joined({', '.join(map(repr, self._parts))})"


class Remembered(Sequence[Episode]):
    """A data source that reads each episode from disk only once.

    Small data sets are read many times over; decoding a record costs more than its
    part of a training step.

    Args:
      source: random access to episodes.
      budget: bytes of pixels and labels that may be kept; the rest is read each time.
      wrist: whether the wrist's view is wanted; it is dropped otherwise.
    """

    def __init__(
        self, source: Sequence[Episode], budget: int = 6 << 30, wrist: bool = False
    ):
        self._source, self._left, self._wrist = source, budget, wrist
        self._kept: dict[int, Episode] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index`."""
        index = int(index)
        if index in self._kept:
            return self._kept[index]
        episode = self._source[index]
        if not self._wrist:
            episode = dataclasses.replace(episode, wrist=None, wrist_semantic=None)
        arrays = (getattr(episode, f.name) for f in dataclasses.fields(episode))
        size = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
        if size <= self._left:
            self._left -= size
            self._kept[index] = episode
        return episode

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"Remembered({self._source!r})"
