"""Records come out of packed rows as they went in."""

import dataclasses

import numpy as np
import packed_cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soler1_jax.common.errors import UserError
from soler1_jax.data.packing import (
    RowShape,
    empty_rows,
    fill_rows,
    make_example,
    pack,
)

CONFIG = packed_cases.config()
TOKEN = CONFIG.vision.spatial_merge_size**2


def _pixels(patches, source):
    """Pixels of the patches behind each picture token, [tokens, merge^2, I]."""
    values = np.asarray(patches.values)
    blocks = values.reshape(-1, TOKEN, values.shape[-1])
    assert patches.mask.reshape(-1, TOKEN)[source].all()
    return blocks[source]


def _records(batch):
    """What each segment of a batch holds: ids, weights, positions, pixels."""
    for row in range(len(batch.ids)):
        patches = type(batch.patches)(*(part[row] for part in batch.patches))
        for number in range(1, batch.segments[row].max() + 1):
            at = batch.segments[row] == number
            source = batch.source[row, at]
            yield (
                batch.ids[row, at],
                batch.weights[row, at],
                batch.positions[row][:, at],
                source >= 0,
                _pixels(patches, source[source >= 0]),
            )


def _alone(example):
    source = example.prompt.source[0]
    pixels = np.zeros((0, TOKEN, CONFIG.vision.patch_values))
    if example.patches is not None:
        pixels = _pixels(example.patches, source[source >= 0])
    return (
        example.prompt.ids[0],
        example.weights,
        example.prompt.positions[0],
        source >= 0,
        pixels,
    )


grid = st.tuples(st.integers(1, 2), st.integers(1, 2))
one = st.tuples(st.lists(grid, max_size=2), st.integers(2, 12))


@settings(max_examples=40)
@given(
    st.lists(one, max_size=12), st.integers(1, 3), st.integers(26, 60), st.booleans()
)
def test_every_record_comes_back_once_and_whole(drawn, rows, length, shared):
    examples = [
        packed_cases.record(CONFIG, seed, grids, words)
        for seed, (grids, words) in enumerate(drawn)
    ]
    shape = RowShape(
        rows=rows,
        length=length,
        pictures=1 if shared else 3,
        patches=40 if shared else 16,
        shared=shared,
    )
    batches = list(pack(examples, CONFIG, shape))
    found = [record for batch in batches for record in _records(batch)]
    assert len(found) == len(examples)
    unmatched = list(map(_alone, examples))
    for record in found:
        same = [
            i
            for i, other in enumerate(unmatched)
            if all(map(np.array_equal, record, other))
        ]
        assert same, "a record that nobody gave"
        unmatched.pop(same[0])
    for batch in batches:
        assert batch.ids.shape == (rows, length)
        padding = batch.segments == 0
        assert not batch.weights[padding].any()
        assert (batch.source[padding] == -1).all()
        # records of a row follow each other without gaps
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()


def test_a_batch_ends_when_the_next_record_has_no_room():
    examples = [packed_cases.record(CONFIG, i, [], 10) for i in range(5)]
    shape = RowShape(rows=2, length=25, pictures=1, patches=4)
    counts = [b.segments.max(axis=1).tolist() for b in pack(examples, CONFIG, shape)]
    assert counts == [[2, 2], [1, 0]]


def test_pictures_limit_a_row_too():
    examples = [packed_cases.record(CONFIG, i, [(1, 1)], 2) for i in range(3)]
    shape = RowShape(rows=1, length=100, pictures=2, patches=4)
    counts = [b.segments.max() for b in pack(examples, CONFIG, shape)]
    assert counts == [2, 1]


def test_pictures_that_share_a_row_are_numbered():
    examples = [packed_cases.record(CONFIG, i, [(1, 1), (1, 2)], 2) for i in range(2)]
    shape = RowShape(rows=1, length=40, pictures=1, patches=28, shared=True)
    (batch,) = pack(examples, CONFIG, shape)
    sizes = (4, 8, 4, 8)
    wanted = [n for n, size in enumerate(sizes, 1) for _ in range(size)]
    np.testing.assert_array_equal(batch.patches.mask[0, 0], [*wanted, 0, 0, 0, 0])


def test_given_rows_hold_what_they_are_given():
    examples = [packed_cases.record(CONFIG, i, [(1, 1)], 4) for i in range(4)]
    shape = RowShape(rows=9, length=40, pictures=2, patches=4)
    batch = fill_rows([examples[:1], [], examples[1:3]], CONFIG, shape)
    assert batch.segments.max(axis=1).tolist() == [1, 0, 2]
    found = [record[0].tolist() for record in _records(batch)]
    assert found == [_alone(e)[0].tolist() for e in examples[:3]]
    with pytest.raises(UserError, match="row 0 has no room for its 3 records"):
        fill_rows([examples[:3]], CONFIG, shape)


def test_empty_rows_count_for_nothing():
    batch = empty_rows(CONFIG, packed_cases.SHAPE)
    assert not batch.weights.any() and not batch.segments.any()
    assert not batch.patches.mask.any()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"length": 12}, r"holds 12 tokens; record 0 has 15"),
        ({"pictures": 1}, r"holds 1 pictures; record 1 has 2"),
        ({"patches": 12}, r"holds 12 patches of a picture; record 0 has 16"),
        ({"patches": 14}, r"merges 4 patches; got .* 14"),
        ({"rows": 0}, r"rows must be positive; got 0"),
    ],
)
def test_what_does_not_fit_is_one_line(change, rule):
    with pytest.raises(UserError, match=rule):
        shape = dataclasses.replace(packed_cases.SHAPE, **change)
        list(pack(packed_cases.records(CONFIG), CONFIG, shape))


@pytest.mark.parametrize(
    ("ids", "weights", "rule"),
    [
        ([1, 2], [1.0], r"one weight a token"),
        ([[1, 2]], [[0.0, 1.0]], r"one weight a token"),
        ([1, 2], [0.0, -1.0], r"not negative; got -1.0"),
        ([1, 2], [0.0, np.nan], r"finite"),
    ],
)
def test_impossible_records_are_refused(ids, weights, rule):
    with pytest.raises(UserError, match=rule):
        make_example(CONFIG, ids, weights)
