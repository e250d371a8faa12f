"""Parts of a data set: records by family, by kind of run, by number; without thoughts.

Ablations and scaling curves are trained on such parts of one data set, so that nothing
else differs between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import SupportsIndex

from soler1_jax.common.errors import UserError, nearest_hint, require_positive
from soler1_jax.data import text
from soler1_jax.data.records import Episode


class Selected(Sequence[Episode]):
    """Some records of a data source, in their order.

    Args:
      source: random access to episodes.
      indices: which of them.
    """

    def __init__(self, source: Sequence[Episode], indices: Sequence[int]):
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index` of those selected."""
        return self._source[self._indices[int(index)]]

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"Selected({self._source!r}, {len(self)}, {hash(tuple(self._indices))})"


def select(
    source: Sequence[Episode],
    *,
    families: Collection[str] = (),
    levels: Collection[int] = (),
    records: int | None = None,
) -> Sequence[Episode]:
    """The first records that are of given families and kinds of run.

    Args:
      source: random access to episodes; all are read if families or levels are given.
      families: task families; all if empty.
      levels: see `Episode.level`, 0 for experts; all if empty.
      records: how many at most; all if None.

    Raises:
      UserError: there is no such family, or no record is left.
    """
    if records is not None:
        require_positive("records", records)
    if not families and not levels:
        count = min(records or len(source), len(source))
        return source if count == len(source) else Selected(source, range(count))
    found: set[str] = set()
    kept: list[int] = []
    for index in range(len(source)):
        if records is not None and len(kept) == records:
            break
        episode = source[index]
        found.add(episode.family)
        if families and episode.family not in families:
            continue
        if levels and episode.level not in levels:
            continue
        kept.append(index)
    for family in families:
        if family not in found and (records is None or len(kept) < records):
            raise UserError(
                f"a family must be one of the data set's; got {family!r}"
                + nearest_hint(family, sorted(found))
            )
    if not kept:
        raise UserError(
            f"no record has families {', '.join(families) or 'any'} and levels "
            f"{', '.join(map(str, levels)) or 'any'}; choose others"
        )
    return Selected(source, kept)


class WithoutThoughts(Sequence[Episode]):
    """The same records with empty thoughts: answers only.

    Args:
      source: random access to episodes.
    """

    def __init__(self, source: Sequence[Episode]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> Episode:
        """Episode `index` with the answers of its queries alone."""
        episode = self._source[index]
        queries = []
        for query in episode.queries:
            _, answer = text.split_completion(query.completion)
            short = text.completion("", answer)
            queries.append(dataclasses.replace(query, completion=short, claims={}))
        return dataclasses.replace(episode, queries=tuple(queries))

    def __repr__(self) -> str:
        # grain compares this when it restores an iterator
        return f"WithoutThoughts({self._source!r})"
