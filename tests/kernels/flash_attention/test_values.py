"""Values and gradients of flash attention against float64, all logits in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    TOLERANCE,
    normal,
    relative_errors,
    sorted_segments,
    with_gradients,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels import dispatch
from soler1_jax.kernels.flash_attention import api, reference


@dataclasses.dataclass(frozen=True)
class Case:
    """One call; `kinds` is how many segments are drawn, 0 for none."""

    implementation: str
    batch: int
    queries: int
    keys: int
    key_heads: int
    group: int
    size: int
    causal: bool
    kinds: int
    shuffled: bool
    logit_cap: float | None
    dtype: str
    seed: int


def draw_cases(implementation: str, unit: int, dtype: str = "float32"):
    """Lengths up to three blocks, mostly no multiple of one."""
    length = st.integers(1, 3 * unit)
    return st.builds(
        Case,
        implementation=st.just(implementation),
        batch=st.integers(1, 2),
        queries=length,
        keys=length,
        key_heads=st.integers(1, 2),
        group=st.sampled_from([1, 2, 3]),
        size=st.sampled_from([8, 24, 64, 72]),
        causal=st.booleans(),
        kinds=st.sampled_from([0, 1, 3, 6]),
        shuffled=st.booleans(),
        logit_cap=st.sampled_from([None, 3.0]),
        dtype=st.just(dtype),
        seed=st.integers(0, 2**16),
    )


def check(case: Case, blocks: tuple[int, int]) -> None:
    rng = np.random.default_rng(case.seed)
    heads = case.key_heads * case.group
    q = normal(rng, case.dtype, case.batch, case.queries, heads, case.size)
    shape = (case.batch, case.keys, case.key_heads, case.size)
    k, v = normal(rng, case.dtype, *shape), normal(rng, case.dtype, *shape)
    q_segments = kv_segments = None
    if case.kinds:
        q_segments, kv_segments = (
            sorted_segments(rng, case.kinds, case.batch, n)
            for n in (case.queries, case.keys)
        )
        if case.shuffled:
            rng.permuted(kv_segments, axis=1, out=kv_segments)
    options = dict(
        causal=case.causal,
        q_segments=q_segments,
        kv_segments=kv_segments,
        logit_cap=case.logit_cap,
    )

    def fast(*arguments):
        return api.flash_attention(
            *arguments,
            **options,
            return_lse=True,
            implementation=case.implementation,
            blocks=blocks,
        )

    def slow(*arguments):
        return reference.flash_attention(*arguments, **options)

    weights = [rng.normal(size=q.shape), rng.normal(size=q.shape[:3])]
    weights[0] = np.asarray(jnp.asarray(weights[0], case.dtype), np.float64)
    got = with_gradients(fast, (q, k, v), weights)
    exact = with_gradients(slow, (q, k, v), weights, "float64")
    assert max(relative_errors(got, exact, 2)) <= TOLERANCE[case.dtype]


ONE_ROW = Case("xla", 1, 1, 1, 1, 2, 8, False, 1, False, None, "float32", 0)


@settings(max_examples=6)
@given(case=draw_cases("xla", 16))
@example(case=ONE_ROW)
def test_xla_equals_the_reference(case):
    check(case, (16, 8))


@settings(max_examples=2)
@given(case=draw_cases("interpret", 128))
def test_tpu_kernels_equal_the_reference(case):
    check(case, (128, 128))


@pytest.mark.slow
@settings(max_examples=12)
@given(case=draw_cases("interpret", 256))
def test_tpu_kernels_equal_the_reference_in_many_cases(case):
    check(case, (256, 128))


@pytest.mark.slow
@settings(max_examples=25)
@given(case=draw_cases("xla", 32))
def test_xla_equals_the_reference_in_many_cases(case):
    check(case, (8, 32))


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_bfloat16(implementation):
    # ranges of blocks that differ in length, where no causal mask hides a step too many
    case = Case(
        implementation, 1, 260, 380, 1, 2, 72, False, 3, False, None, "bfloat16", 0
    )
    check(case, (128, 128))


def test_head_size_256_with_a_cap():
    case = Case("interpret", 1, 130, 130, 1, 2, 256, False, 0, False, 5.0, "float32", 0)
    check(case, (128, 128))


def test_no_data_race(monkeypatch):
    params = pltpu.InterpretParams(detect_races=True)
    monkeypatch.setattr(dispatch, "interpret_params", lambda name: params)
    pltpu.reset_tpu_interpret_mode_state()
    case = Case("interpret", 1, 140, 250, 1, 2, 8, True, 2, False, None, "float32", 0)
    check(case, (128, 128))
    assert interpret_pallas_call.races.races_found is False


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_blocks_between_which_nothing_is_allowed_are_skipped(implementation):
    """A value that is not a number survives masking (0 * NaN), but not skipping."""
    rng = np.random.default_rng(0)
    unit = 128
    q, k, v = (normal(rng, "float32", 1, 3 * unit, 1, 8) for _ in range(3))
    bad = jnp.arange(3 * unit)[:, None, None] >= 2 * unit
    k, v = jnp.where(bad, jnp.nan, k), jnp.where(bad, jnp.nan, v)
    blocks = jnp.repeat(jnp.arange(1, 4, dtype=jnp.int32), unit)[None]

    def call(**options):
        def out(q, k, v):
            got = api.flash_attention(
                q, k, v, implementation=implementation, blocks=(unit, unit), **options
            )
            return jnp.sum(got[:, : 2 * unit]), got

        program = jax.jit(jax.value_and_grad(out, argnums=(0, 1, 2), has_aux=True))
        (_, got), gradients = program(q, k, v)
        return got[0, : 2 * unit], gradients[0][0, : 2 * unit], gradients[1:]

    by_segment = dict(q_segments=jnp.minimum(blocks, 2), kv_segments=blocks)
    for options in (by_segment, {"causal": True}):
        got, dq, (dk, dv) = call(**options)
        assert jnp.all(jnp.isfinite(got)) and jnp.all(jnp.isfinite(dq))
        if options is by_segment:
            assert jnp.all(jnp.isfinite(dk)) and not jnp.any(dv[:, 2 * unit :])
    assert jnp.any(jnp.isnan(call()[0])), "without a mask the poison is seen"


def test_parts_can_be_merged_under_grad():
    rng = np.random.default_rng(0)
    q, k, v, w = (normal(rng, "float32", 2, 40, 2, 16) for _ in range(4))
    # some rows see keys of one part only, some of neither
    q_segments = np.repeat([[1, 2, 3, 4]], 10, axis=1).astype(np.int32).repeat(2, 0)
    kv_segments = np.where(np.arange(40) < 20, q_segments % 3, 2).astype(np.int32)

    def whole(q, k, v):
        return api.flash_attention(
            q, k, v, q_segments=q_segments, kv_segments=kv_segments, return_lse=True
        )

    def merged(q, k, v):
        parts = []
        for half in (slice(0, 20), slice(20, 40)):
            parts += api.flash_attention(
                q,
                k[:, half],
                v[:, half],
                q_segments=q_segments,
                kv_segments=kv_segments[:, half],
                return_lse=True,
            )
        return api.merge_partials(*parts)

    weights = (np.asarray(w), np.asarray(w[..., 0]))
    exact = with_gradients(whole, (q, k, v), weights)
    got = with_gradients(merged, (q, k, v), weights)
    assert max(relative_errors(got, exact, 2)) <= 2e-6


def test_memory_grows_with_length_not_with_its_square():
    def temporary(length):
        x = jax.ShapeDtypeStruct((1, length, 1, 32), jnp.float32)

        def loss(q, k, v):
            return jnp.sum(api.flash_attention(q, k, v, causal=True) ** 2)

        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporary(8192) <= 2.2 * temporary(4096)
