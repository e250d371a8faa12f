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

from soler1_jax.common.errors import UserError, require_positive
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The static shape of a batch.

    Attributes:
      rows: B.
      length: T.
      pictures: N; at least 1, so that models always have a picture to trace.
      patches: P, a multiple of the squared merge size.
    """

    rows: int
    length: int
    pictures: int
    patches: int

    def __post_init__(self) -> None:
        """Raises UserError for sizes that are not positive."""
        for field in dataclasses.fields(self):
            require_positive(field.name, getattr(self, field.name))


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


def empty_rows(config: ModelConfig, shape: RowShape) -> PackedRows:
    """A batch without records."""
    _check_patches(config, shape)
    return _Builder(config, shape).rows()


class _Builder:
    """Rows that are being filled."""

    def __init__(self, config: ModelConfig, shape: RowShape) -> None:
        row, frame = (shape.rows, shape.length), (shape.rows, shape.pictures)
        patch = (*frame, shape.patches)
        self._shape, self._merged = shape, config.vision.spatial_merge_size**2
        self.records = [0] * shape.rows
        self._used = np.zeros((shape.rows, 2), int)  # tokens and pictures
        self._packed = PackedRows(
            ids=np.zeros(row, np.int32),
            segments=np.zeros(row, np.int32),
            positions=np.zeros((shape.rows, 3, shape.length), np.int32),
            source=np.full(row, -1, np.int32),
            weights=np.zeros(row, np.float32),
            patches=Patches(
                values=np.zeros((*patch, config.vision.patch_values), np.float32),
                mask=np.zeros(patch, bool),
                places=np.zeros((*patch, 2), np.int32),
                taps=np.zeros((*patch, 4), np.int32),
                weights=np.zeros((*patch, 4), np.float32),
            ),
        )

    def rows(self) -> PackedRows:
        """What was built; the builder is not used again."""
        return self._packed

    def add(self, example: Example) -> bool:
        """Puts an example into the first row with room; False if there is none."""
        wanted = np.array(_size(example)[:2])
        room = (self._shape.length, self._shape.pictures) - self._used
        fits = np.flatnonzero((wanted <= room).all(axis=1))
        if not len(fits):
            return False
        self.put(example, int(fits[0]))
        return True

    def put(self, example: Example, row: int) -> None:
        """Puts an example into a row in which it fits."""
        wanted = np.array(_size(example)[:2])
        start, first = self._used[row]
        self.records[row] += 1
        packed, prompt = self._packed, example.prompt
        place = (row, slice(start, start + wanted[0]))
        packed.ids[place] = prompt.ids[0]
        packed.segments[place] = self.records[row]
        packed.positions[row, :, place[1]] = prompt.positions[0]
        packed.source[place] = self._source(example, first)
        packed.weights[place] = example.weights
        if example.patches is not None:
            frames, places = example.patches.mask.shape
            to = (row, slice(first, first + frames), slice(places))
            for whole, part in zip(packed.patches, example.patches, strict=True):
                whole[to] = part
        self._used[row] += wanted

    def _source(self, example: Example, first: int) -> np.ndarray:
        """Picture tokens counted from the row's first, int [T]."""
        source = example.prompt.source[0]
        if example.patches is None:
            return source
        frame, offset = np.divmod(source, example.patches.mask.shape[1] // self._merged)
        capacity = self._shape.patches // self._merged
        return np.where(source < 0, -1, (first + frame) * capacity + offset)


def _size(example: Example) -> tuple[int, int, int]:
    """Tokens, pictures and patches of the largest picture."""
    tokens = example.prompt.ids.shape[1]
    return tokens, *((0, 0) if example.patches is None else example.patches.mask.shape)


def _check_fits(example: Example, shape: RowShape, number: int) -> None:
    limits = shape.length, shape.pictures, shape.patches
    names = "tokens", "pictures", "patches of a picture"
    for size, limit, name in zip(_size(example), limits, names, strict=True):
        if size > limit:
            raise UserError(
                f"a row holds {limit} {name}; record {number} has {size}; make rows "
                "larger or leave the record out"
            )


def _check_patches(config: ModelConfig, shape: RowShape) -> None:
    merged = config.vision.spatial_merge_size**2
    if shape.patches % merged:
        raise UserError(
            f"a picture token merges {merged} patches; got rows with pictures of "
            f"{shape.patches}; give a multiple of {merged}"
        )
