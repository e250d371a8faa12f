"""What is not read: blocks beyond a length, and no second copy of the cache."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels.decode_attention import tpu, xla

lengths_and_keys = st.integers(1, 8).flatmap(
    lambda keys: st.tuples(
        st.lists(st.integers(0, 6 * keys), min_size=1, max_size=9), st.just(keys)
    )
)


@settings(max_examples=15, deadline=None)
@given(lengths_and_keys, st.sampled_from([1, 2]))
def test_schedule_holds_every_block_once_and_in_order(drawn, parts):
    lengths, keys = drawn
    parts = min(parts, len(lengths))
    plan = tpu.schedule(jnp.array(lengths, jnp.int32), keys, 6, parts)
    share = -(-len(lengths) // parts)
    for part in range(parts):
        mine = range(part * share, min((part + 1) * share, len(lengths)))
        want = [(s, b) for s in mine for b in range(math.ceil(lengths[s] / keys))]
        steps = int(plan.steps[part])
        pairs = list(
            zip(plan.sequence[part].tolist(), plan.block[part].tolist(), strict=True)
        )
        assert pairs[:steps] == want
        # what follows repeats, so that nothing is fetched and nothing of others written
        if want:
            assert set(pairs[steps:]) <= {want[-1]}
        else:
            assert {sequence for sequence, _ in pairs} <= set(mine)


def test_kernel_takes_a_step_only_for_blocks_with_keys():
    lengths = [0, 100, 17, 0, 1, 33]
    shape = (len(lengths), 100, 2, 32)
    seen = []

    def record(token, point, core):
        seen.append(tuple(map(int, point)))
        return token

    params = pltpu.InterpretParams(grid_point_recorder=record)
    out, _ = tpu.attend(
        jnp.ones((len(lengths), 4, 32)),
        jnp.ones(shape),
        jnp.ones(shape),
        jnp.array(lengths, jnp.int32),
        softmax_scale=1.0,
        keys=16,
        interpret=params,
    )
    np.testing.assert_array_equal(out[:, 0, 0], np.array(lengths) > 0)
    # two parts of three sequences: 0 + 7 + 2 blocks, and 0 + 1 + 3
    assert sorted(seen) == [(part, step) for part in range(2) for step in range(9)]


def test_xla_reads_only_blocks_with_keys(monkeypatch):
    read = []
    block = xla._block

    def counted(cache, at, rows, keys):
        jax.debug.callback(
            lambda first, begin: read.append((int(first), int(begin))), *at
        )
        return block(cache, at, rows, keys)

    monkeypatch.setattr(xla, "_block", counted)
    lengths, shape = jnp.array([0, 100, 17, 64], jnp.int32), (4, 100, 2, 32)
    out, _ = xla.attend(
        jnp.ones((4, 4, 32)), jnp.ones(shape), jnp.ones(shape), lengths,
        softmax_scale=1.0, keys=16,
    )  # fmt: skip
    jax.block_until_ready(out)
    jax.effects_barrier()
    want = {(1, 16 * i) for i in range(6)} | {(1, 84), (2, 0), (2, 16)}
    want |= {(3, 16 * i) for i in range(4)}
    assert set(read) == want and len(read) == 2 * len(want)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2"]
)
def test_xla_makes_no_copy_of_the_cache(dtype):
    shape = jax.ShapeDtypeStruct((4, 512, 4, 64), jnp.dtype(dtype))
    q = jax.ShapeDtypeStruct((4, 8, 64), jnp.bfloat16)
    lengths = jax.ShapeDtypeStruct((4,), jnp.int32)
    program = jax.jit(lambda *x: xla.attend(*x, softmax_scale=0.1)[0])
    memory = program.lower(q, shape, shape, lengths).compile().memory_analysis()
    if memory is None:
        pytest.skip("this backend does not say how much memory a program takes")
    assert memory.temp_size_in_bytes < math.prod(shape.shape) * shape.dtype.itemsize / 2
