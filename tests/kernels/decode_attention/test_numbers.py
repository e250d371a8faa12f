"""Decode attention against float64: SciPy's softmax, and the plain implementation.

Shapes and lengths are drawn at random: lengths of 0, of the whole capacity and between,
capacities that are no multiple of a block. Whatever lies beyond a length is NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels.decode_attention import reference, tpu, xla
from soler1_jax.kernels.decode_attention.api import decode_attention

TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2}


class Case(NamedTuple):
    """Sizes of one call; lengths are of the first sequences, the others are drawn."""

    capacity: int
    heads: int
    kv_heads: int
    head_dim: int
    lengths: tuple[int, ...]
    dtype: str = "float32"
    seed: int = 0


def arguments(case: Case) -> tuple[np.ndarray, ...]:
    """Return q, k_cache, v_cache in float64, rounded to the dtype, and lengths."""
    rng = np.random.default_rng(case.seed)
    batch = len(case.lengths)
    cache = (batch, case.capacity, case.kv_heads, case.head_dim)
    lengths = np.array(case.lengths, np.int32)
    beyond = np.arange(case.capacity) >= lengths[:, None]
    drawn = [
        np.asarray(jnp.asarray(rng.normal(size=size), case.dtype), np.float64)
        for size in ((batch, case.heads, case.head_dim), cache, cache)
    ]
    for kept in drawn[1:]:
        kept[beyond] = np.nan
    return (*drawn, lengths)


def scipy_attention(q, k, v, lengths, scale, cap=None):
    """Return attention and lse in float64, sequence by sequence and head by head."""
    batch, heads, _ = q.shape
    group = heads // k.shape[2]
    out, lse = np.zeros(q.shape), np.full((batch, heads), -np.inf)
    for b in range(batch):
        for h in range(heads):
            keys, values = (x[b, : lengths[b], h // group] for x in (k, v))
            logits = keys @ q[b, h] * scale
            if cap is not None:
                logits = cap * np.tanh(logits / cap)
            if len(logits):
                out[b, h] = scipy.special.softmax(logits) @ values
                lse[b, h] = scipy.special.logsumexp(logits)
    return out, lse


def rounded(case: Case) -> tuple[jax.Array, ...]:
    *floats, lengths = arguments(case)
    return (*(jnp.asarray(x, case.dtype) for x in floats), jnp.asarray(lengths))


def assert_close(case: Case, got: tuple, options: dict) -> None:
    """Compare out and lse with SciPy's, relative to the largest entry."""
    out, lse = got
    assert out.dtype == case.dtype and lse.dtype == jnp.float32
    scale = options["softmax_scale"]
    want, want_lse = scipy_attention(*arguments(case), scale, options.get("logit_cap"))
    largest = max(np.abs(want).max(), 1e-30)
    assert (
        np.abs(np.asarray(out, float) - want).max() <= TOLERANCE[case.dtype] * largest
    )
    empty = np.array(case.lengths) == 0
    assert not np.asarray(out, float)[empty].any()
    np.testing.assert_array_equal(np.asarray(lse)[empty], -np.inf)
    np.testing.assert_allclose(
        np.asarray(lse)[~empty], want_lse[~empty], rtol=0, atol=TOLERANCE[case.dtype]
    )


def interpret(case: Case, keys: int, **options) -> tuple:
    """Run the TPU kernel; a race between a transfer and a computation is an error."""
    params = pltpu.InterpretParams(detect_races=True)
    got = tpu.attend(
        *rounded(case), keys=keys, interpret=params, return_lse=True, **options
    )
    jax.block_until_ready(got)
    races = jax._src.pallas.mosaic.interpret.interpret_pallas_call.races
    assert not races.races_found
    return got


cases = st.builds(
    lambda capacity, kv, group, dim, shares, dtype, seed: Case(
        capacity,
        kv * group,
        kv,
        dim,
        tuple(round(share * capacity) for share in shares),
        dtype,
        seed,
    ),
    capacity=st.integers(1, 90),
    kv=st.sampled_from([1, 2, 3, 8]),
    group=st.sampled_from([1, 2, 4, 5]),
    dim=st.sampled_from([32, 64, 128, 256]),
    shares=st.lists(st.sampled_from([0, 0.2, 0.5, 0.77, 1]), min_size=1, max_size=5),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 99),
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(cases)
def test_reference_in_float64_is_scipy(case):
    want = scipy_attention(*arguments(case), 0.2, 3.0)
    with jax.enable_x64(True):
        got = reference.attend(
            *map(jnp.asarray, arguments(case)),
            softmax_scale=0.2,
            logit_cap=3.0,
            return_lse=True,
        )
        for found, wanted in zip(got, want, strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(cases, st.sampled_from([None, 8, 16, 64]), st.sampled_from([None, 5.0]))
def test_xla(case, keys, cap):
    options = {"softmax_scale": case.head_dim**-0.5, "logit_cap": cap}
    got = xla.attend(*rounded(case), keys=keys, return_lse=True, **options)
    assert_close(case, got, options)


@settings(max_examples=4, deadline=None)
@given(cases, st.sampled_from([None, 5.0]))
def test_kernel(case, cap):
    options = {"softmax_scale": case.head_dim**-0.5, "logit_cap": cap}
    assert_close(case, interpret(case, 16, **options), options)


@pytest.mark.parametrize(
    "case",
    [
        # lengths around multiples of the block, capacity no multiple
        Case(70, 8, 2, 64, (0, 70, 15, 16, 17, 64, 1)),
        # a part of the batch without any key, and an odd batch
        Case(40, 4, 1, 128, (0, 0, 0, 40, 33), "bfloat16"),
        Case(33, 32, 8, 128, (0,)),
    ],
    ids=lambda case: f"{case.lengths}",
)
def test_kernel_at_the_edges(case):
    options = {"softmax_scale": case.head_dim**-0.5}
    assert_close(case, interpret(case, 16, **options), options)


def test_programs_of_all_sequences_together_and_in_turn_agree(monkeypatch):
    # what other platforms than the CPU run
    case = Case(50, 6, 3, 32, (0, 50, 17, 3))
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
    )
    options = {"softmax_scale": 0.3}
    got = xla.attend(*rounded(case), keys=16, return_lse=True, **options)
    assert_close(case, got, options)


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_entry_point_agrees_with_jax(implementation):
    # jax.nn gives the mean of the values at length 0, so none is asked for
    case = Case(40, 8, 4, 64, (40, 9, 1), seed=3)
    q, k, v, lengths = rounded(case)
    k, v = jnp.nan_to_num(k), jnp.nan_to_num(v)
    want = jax.nn.dot_product_attention(
        q[:, None], k, v, key_value_seq_lengths=lengths
    )[:, 0]
    got = decode_attention(q, k, v, lengths, implementation=implementation)
    np.testing.assert_allclose(got, want, atol=2e-6)
    same = decode_attention(
        q, k, v, lengths.at[0].set(99), implementation=implementation
    )
    np.testing.assert_array_equal(same, got)


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
@pytest.mark.parametrize("narrow", ["int8", "float8_e4m3fn"])
def test_narrow_caches_are_what_their_scales_make_of_them(implementation, narrow):
    case = Case(40, 8, 2, 64, (40, 0, 23), "bfloat16", 5)
    q, k, v, lengths = rounded(case)
    rng = np.random.default_rng(1)
    k_scale, v_scale = rng.uniform(0.01, 0.1, (2, 3, 2)).astype(np.float32)
    levels = [
        jnp.clip(jnp.nan_to_num(40 * x), -100, 100).astype(narrow) for x in (k, v)
    ]
    got = decode_attention(
        q,
        *levels,
        lengths,
        k_scale=jnp.asarray(k_scale),
        v_scale=jnp.asarray(v_scale),
        implementation=implementation,
    )
    wide = [
        np.asarray(level, float) * scale[:, None, :, None]
        for level, scale in zip(levels, (k_scale, v_scale), strict=True)
    ]
    want, _ = scipy_attention(np.asarray(q, float), *wide, case.lengths, 64**-0.5)
    assert got.dtype == jnp.bfloat16
    error = np.abs(np.asarray(got, float) - want).max()
    assert error <= 1e-2 * np.abs(want).max()
    if narrow == "float8_e4m3fn":
        heads = decode_attention(
            q,
            *levels,
            lengths,
            k_scale=jnp.asarray(k_scale[0]),
            implementation=implementation,
        )
        assert heads.shape == q.shape
