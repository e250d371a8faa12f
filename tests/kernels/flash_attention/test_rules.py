"""Which blocks are visited: none that is needed is left out, few others are taken."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from attention_cases import sorted_segments
from hypothesis import given
from hypothesis import strategies as st
from soler1_jax.kernels.flash_attention import reference, rules
from soler1_jax.kernels.flash_attention.shapes import SHAPES


@pytest.fixture(scope="module", autouse=True)
def without_compilation():
    """Run the functions under NumPy: every drawn shape would be compiled anew."""
    with mock.patch.object(rules, "jnp", np), mock.patch.object(reference, "jnp", np):
        yield


def _rules(queries, keys, causal, block_q, block_k):
    return rules.Rules(queries, keys, causal, 1.0, None, block_q, block_k)


def _needed(call, q_segments, kv_segments):
    """Return which pairs of blocks hold an allowed pair, bool [B, Nq, Nk]."""
    allowed = reference.mask(
        call.queries, call.keys, call.causal, q_segments, kv_segments
    )[:, 0]
    pad_q = call.blocks_q * call.block_q - call.queries
    pad_k = call.blocks_k * call.block_k - call.keys
    allowed = np.pad(np.asarray(allowed), ((0, 0), (0, pad_q), (0, pad_k)))
    shape = (-1, call.blocks_q, call.block_q, call.blocks_k, call.block_k)
    return allowed.reshape(shape).any((2, 4))


def _taken(first, end, count):
    index = np.arange(count)
    return (index >= np.asarray(first)[..., None]) & (
        index < np.asarray(end)[..., None]
    )


@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    causal=st.booleans(),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kinds=st.sampled_from([0, 1, 2, 5]),
    seed=st.integers(0, 2**16),
)
def test_every_needed_block_is_visited(queries, keys, causal, blocks, kinds, seed):
    rng = np.random.default_rng(seed)
    call = _rules(queries, keys, causal, *blocks)
    q_segments = kv_segments = None
    if kinds:
        q_segments = rng.integers(-1, kinds + 1, (2, queries)).astype(np.int32)
        kv_segments = rng.integers(-1, kinds + 1, (2, keys)).astype(np.int32)
    needed = _needed(call, q_segments, kv_segments)
    of_queries = _taken(*rules.key_ranges(call, q_segments, kv_segments), call.blocks_k)
    of_keys = _taken(*rules.query_ranges(call, q_segments, kv_segments), call.blocks_q)
    assert not np.any(needed & ~of_queries)
    assert not np.any(needed & ~of_keys.swapaxes(1, 2))
    if not kinds:
        np.testing.assert_array_equal(of_queries, needed)
        np.testing.assert_array_equal(of_keys.swapaxes(1, 2), needed)


@given(
    length=st.integers(1, 60),
    causal=st.booleans(),
    block=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_sorted_segments_visit_needed_blocks_only(length, causal, block, seed):
    rng = np.random.default_rng(seed)
    call = _rules(length, length, causal, block, block)
    segments = sorted_segments(rng, 4, 2, length)
    taken = _taken(*rules.key_ranges(call, segments, segments), call.blocks_k)
    np.testing.assert_array_equal(taken, _needed(call, segments, segments))


@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    causal=st.booleans(),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_blocks_called_whole_hold_no_masked_pair(queries, keys, causal, blocks):
    call = _rules(queries, keys, causal, *blocks)
    allowed = np.asarray(reference.mask(queries, keys, causal, None, None))[0, 0]
    for i, count in enumerate(rules.leading_full_blocks(call)):
        rows = allowed[i * call.block_q : (i + 1) * call.block_q]
        assert np.all(rows[:, : count * call.block_k])
    assert rules.pairs(call) == allowed.sum()


@pytest.mark.parametrize("name", SHAPES)
def test_the_table_counts_its_pairs(name):
    shape = dataclasses.replace(SHAPES[name], batch=1)
    segments = shape.segment_ids()
    allowed = reference.mask(shape.length, shape.length, shape.causal, None, None)
    if segments is not None:
        allowed = reference.mask(
            shape.length, shape.length, shape.causal, segments, segments
        )
    assert shape.pairs() == int(allowed.sum())


@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    causal=st.booleans(),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kinds=st.sampled_from([0, 1, 2, 5]),
    seed=st.integers(0, 2**16),
)
def test_blocks_seen_whole_need_no_mask(queries, keys, causal, blocks, kinds, seed):
    rng = np.random.default_rng(seed)
    call = _rules(queries, keys, causal, *blocks)
    segments = None, None
    if kinds:
        segments = tuple(
            np.sort(rng.integers(0, kinds + 1, (2, n)).astype(np.int32))
            for n in (queries, keys)
        )
    mask = np.asarray(reference.mask(queries, keys, causal, *segments))[:, 0]
    of_keys = np.asarray(rules.key_block_ranges(call, *segments))
    of_queries = np.asarray(rules.query_block_ranges(call, *segments))
    for bounds, size, across, turned in (
        (of_keys, call.block_q, call.block_k, mask),
        (of_queries, call.block_k, call.block_q, np.swapaxes(mask, 1, 2)),
    ):
        for row, i in np.ndindex(bounds.shape[:2]):
            first, whole, whole_end, end = bounds[row, i]
            assert first <= whole <= whole_end <= max(end, whole)
            seen = turned[row, i * size : (i + 1) * size]
            assert seen[:, whole * across : whole_end * across].all()
            assert not seen[:, : first * across].any()
            assert not seen[:, end * across :].any()
