"""Records of different lengths side by side in rows of one static shape.

A row holds several records one after another, so that little of it is padding. Segments
tell them apart: tokens see only their own record, and each record's positions start
anew, as if it stood alone.

Letters: B rows, T tokens of a row, N pictures of a row, P patches of a picture, K = P /
merge^2 tokens of a picture, I numbers of a patch.
Source: packing without cross-contamination (arXiv 2107.02027).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from soler1_jax.common.errors import UserError
from soler1_jax.data.row_room import Place, Room, RowShape, Size, check_fits
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.patches import Patches
from soler1_jax.model.prompt import Prompt, make_prompt


class PackedRows(NamedTuple):
    """A batch; every array leads with B, so that any axis of devices can split it."""

    ids: ArrayLike  # int32 [B, T]
    segments: ArrayLike  # int32 [B, T], a row's records from 1 on; 0 on padding
    positions: ArrayLike  # int32 [B, 3, T]: time, height, width
    source: ArrayLike  # int32 [B, T], which picture token of the row; -1 at words
    weights: ArrayLike  # float32 [B, T], what predicting this token counts for
    patches: Patches  # [B, N, P, ...]


class Example(NamedTuple):
    """One record, laid out alone."""

    prompt: Prompt  # of one row
    weights: np.ndarray  # float32 [T]
    patches: Patches | None  # of its pictures


def make_example(
    config: ModelConfig,
    input_ids: ArrayLike,
    weights: ArrayLike,
    **pictures: ArrayLike | None,
) -> Example:
    """Lays out one record.

    Args:
      config: of the model.
      input_ids: int [T], prompt, thought and answer.
      weights: float [T], what predicting each token counts for: 0 on the prompt.
      **pictures: see `prompt.make_prompt`.

    Raises:
      UserError: the arrays do not fit each other or the model.
    """
    ids = np.asarray(input_ids)
    weights = np.asarray(weights, np.float32)
    if ids.ndim != 1 or weights.shape != ids.shape:
        raise UserError(
            "a record has one weight a token, both of shape [T]; got ids "
            f"{list(ids.shape)} and weights {list(weights.shape)}; give one record"
        )
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise UserError(
            "weights of a loss must be finite and not negative; got "
            f"{weights.min()} to {weights.max()}; give 0 to what does not count"
        )
    prompt, patches = make_prompt(config, ids[None], **pictures, exact=True)
    return Example(prompt, weights, patches)


def pack(
    examples: Iterable[Example], config: ModelConfig, shape: RowShape
) -> Iterator[PackedRows]:
    """Fills rows in the order of the examples, each into the first row with room.

    Yields:
      A batch whenever the next example fits into no row of it, and the last one, as
      numpy arrays. Rows that stay empty count for nothing.

    Raises:
      UserError: an example is too large for an empty row.
    """
    _check_patches(config, shape)
    builder = _Builder(config, shape)
    for number, example in enumerate(examples):
        _check_fits(example, shape, number)
        if not builder.add(example):
            yield builder.rows()
            builder = _Builder(config, shape)
            builder.add(example)
    if any(builder.records):
        yield builder.rows()


def one_a_row(
    examples: Sequence[Example], config: ModelConfig, shape: RowShape
) -> PackedRows:
    """Gives each example a row of its own, as prompts of `training/grouped.py` have.

    Raises:
      UserError: there are not `shape.rows` examples, or one is too large for a row.
    """
    if len(examples) != shape.rows:
        raise UserError(
            f"one record a row fills {shape.rows} rows; got {len(examples)} records; "
            "give as many as rows"
        )
    _check_patches(config, shape)
    builder = _Builder(config, shape)
    for number, example in enumerate(examples):
        _check_fits(example, shape, number)
        builder.put(example, number)
    return builder.rows()


def fill_rows(
    rows: Sequence[Sequence[Example]], config: ModelConfig, shape: RowShape
) -> PackedRows:
    """Puts given examples into given rows.

    Args:
      rows: what each row holds, in its order; any number of rows.
      config: of the model.
      shape: of a batch; its number of rows does not matter.

    Raises:
      UserError: a row's examples do not fit into it.
    """
    _check_patches(config, shape)
    shape = dataclasses.replace(shape, rows=len(rows))
    builder = _Builder(config, shape)
    for number, examples in enumerate(rows):
        for example in examples:
            if not builder.fits(example, number):
                raise UserError(
                    f"row {number} has no room for its {len(examples)} records; make rows "
                    "larger or give it fewer"
                )
            builder.put(example, number)
    return builder.rows()


def empty_rows(config: ModelConfig, shape: RowShape) -> PackedRows:
    """A batch without records."""
    _check_patches(config, shape)
    return _Builder(config, shape).rows()


def size_of(example: Example) -> Size:
    """What of a row an example takes."""
    pictures = ()
    if example.patches is not None:
        pictures = tuple(np.count_nonzero(example.patches.mask, axis=1).tolist())
    return Size(example.prompt.ids.shape[1], pictures)


class _Builder:
    """Rows that are being filled."""

    def __init__(self, config: ModelConfig, shape: RowShape) -> None:
        row, frame = (shape.rows, shape.length), (shape.rows, shape.pictures)
        patch = (*frame, shape.patches)
        self._merged = config.vision.spatial_merge_size**2
        self._room = Room(shape)
        self._packed = PackedRows(
            ids=np.zeros(row, np.int32),
            segments=np.zeros(row, np.int32),
            positions=np.zeros((shape.rows, 3, shape.length), np.int32),
            source=np.full(row, -1, np.int32),
            weights=np.zeros(row, np.float32),
            patches=Patches(
                values=np.zeros((*patch, config.vision.patch_values), np.float32),
                mask=np.zeros(patch, np.int32 if shape.shared else bool),
                places=np.zeros((*patch, 2), np.int32),
                taps=np.zeros((*patch, 4), np.int32),
                weights=np.zeros((*patch, 4), np.float32),
            ),
        )

    @property
    def records(self) -> list[int]:
        """Records of each row."""
        return self._room.records

    def rows(self) -> PackedRows:
        """What was built; the builder is not used again."""
        return self._packed

    def add(self, example: Example) -> bool:
        """Puts an example into the first row with room; False if there is none."""
        row = self._room.find(size_of(example))
        if row is None:
            return False
        self.put(example, row)
        return True

    def fits(self, example: Example, row: int) -> bool:
        """Whether a row has room for an example."""
        return self._room.fits(size_of(example), row)

    def put(self, example: Example, row: int) -> None:
        """Puts an example into a row in which it fits."""
        start, places = self._room.take(size_of(example), row)
        packed, prompt = self._packed, example.prompt
        where = (row, slice(start, start + prompt.ids.shape[1]))
        packed.ids[where] = prompt.ids[0]
        packed.segments[where] = self._room.records[row]
        packed.positions[row, :, where[1]] = prompt.positions[0]
        packed.source[where] = self._source(example, places)
        packed.weights[where] = example.weights
        if example.patches is None:
            return
        for frame, place in enumerate(places):
            there = np.flatnonzero(example.patches.mask[frame])
            to = (row, place.picture, slice(place.first, place.first + len(there)))
            for whole, part in zip(packed.patches, example.patches, strict=True):
                whole[to] = part[frame, there]
            packed.patches.mask[to] = place.number

    def _source(self, example: Example, places: Sequence[Place]) -> np.ndarray:
        """Picture tokens counted from the row's first, int [T]."""
        source = example.prompt.source[0]
        if example.patches is None:
            return source
        frame, offset = np.divmod(source, example.patches.mask.shape[1] // self._merged)
        capacity = self._packed.patches.mask.shape[2] // self._merged
        first = np.array(
            [p.picture * capacity + p.first // self._merged for p in places]
        )
        return np.where(source < 0, -1, first[frame] + offset)


def _check_fits(example: Example, shape: RowShape, number: int) -> None:
    check_fits(size_of(example), shape, f"record {number}")


def _check_patches(config: ModelConfig, shape: RowShape) -> None:
    merged = config.vision.spatial_merge_size**2
    if shape.patches % merged:
        raise UserError(
            f"a picture token merges {merged} patches; got rows with pictures of "
            f"{shape.patches}; give a multiple of {merged}"
        )
