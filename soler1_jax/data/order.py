"""Which examples a training step sees: a function of seed and step alone.

Examples are drawn from their sources by weight and, within a source, in an order that is
shuffled anew every time all of it has been seen. Rows are planned from the examples'
sizes, so that nothing is read but what a process's own rows need, and a run that continues
sees what it would have seen, on however many hosts.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.data.row_room import Room, RowShape, Size, check_all_fit

_BLOCK = 1024


class Order:
    """An endless order of examples.

    Args:
      sources: of each example.
      mixture: weight of each source. Sources that are not named are left out; those of
        which there are no examples are passed over.
      seed: of all draws.

    Raises:
      UserError: no example has weight, or a weight is negative.
    """

    def __init__(
        self, sources: Sequence[str], mixture: Mapping[str, float], seed: int
    ) -> None:
        names = np.asarray(sources)
        self._members = [
            (np.flatnonzero(names == name), weight) for name, weight in mixture.items()
        ]
        self._members = [(m, w) for m, w in self._members if len(m) and w]
        if not self._members or min(mixture.values()) < 0:
            raise UserError(
                f"a mixture gives weights to sources; got {dict(mixture)} for examples of "
                f"{', '.join(sorted(set(sources))) or 'none'}; name some of these"
            )
        weights = np.array([w for _, w in self._members], np.float64)
        self._shares = weights / weights.sum()
        self._seed = seed
        self._taken = [0] * len(self._members)
        self._blocks: list[np.ndarray] = []
        self._shuffled: dict[int, tuple[int, np.ndarray]] = {}

    def __getitem__(self, position: int) -> int:
        """The example at a position, from 0 on without end."""
        block, inside = divmod(position, _BLOCK)
        while len(self._blocks) <= block:
            self._draw()
        return int(self._blocks[block][inside])

    def _draw(self) -> None:
        rng = np.random.default_rng([self._seed, 0, len(self._blocks)])
        which = rng.choice(len(self._shares), _BLOCK, p=self._shares)
        self._blocks.append(np.array([self._next(int(w)) for w in which], np.int64))

    def _next(self, source: int) -> int:
        """The following example of a source."""
        members = self._members[source][0]
        epoch, at = divmod(self._taken[source], len(members))
        self._taken[source] += 1
        if self._shuffled.get(source, (-1,))[0] != epoch:
            rng = np.random.default_rng([self._seed, 1 + source, epoch])
            self._shuffled[source] = (epoch, rng.permutation(members))
        return self._shuffled[source][1][at]


class Plan:
    """Which examples lie in which row of each batch.

    A batch takes examples in their order, each into the first row with room, and ends
    with the first that finds none, which begins the next.

    Args:
      sizes: of each example.
      order: of the examples.
      shape: of the batches.

    Raises:
      UserError: an example is too large for a row.
    """

    def __init__(self, sizes: Sequence[Size], order: Order, shape: RowShape) -> None:
        check_all_fit(sizes, shape, "example")
        self._sizes, self._order, self._shape = sizes, order, shape
        self._starts = [0]  # position of each batch's first example
        self._last: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, step: int) -> list[list[int]]:
        """Examples in each of the B rows of a step's batch."""
        while len(self._starts) <= step + 1:
            self._fill(len(self._starts) - 1)
        if self._last[0] != step:
            self._fill(step)
        return self._last[1]

    def _fill(self, step: int) -> None:
        room = Room(self._shape)
        rows: list[list[int]] = [[] for _ in range(self._shape.rows)]
        position = self._starts[step]
        while True:
            example = self._order[position]
            row = room.find(self._sizes[example])
            if row is None:
                break
            room.take(self._sizes[example], row)
            rows[row].append(example)
            position += 1
        self._last = step, rows
        if len(self._starts) == step + 1:
            self._starts.append(position)
