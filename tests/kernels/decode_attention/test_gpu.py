"""Decoding for Hopper: its numbers by the interpreter, and that it is lowered."""

import functools

import gpu_interpreter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from soler1_jax.kernels.decode_attention import reference
from soler1_jax.kernels.decode_attention.api import decode_attention
from soler1_jax.kernels.decode_attention.shapes import SHAPES

_SHAPES = {
    s.label: s for s in SHAPES if s.dtype == s.cache_dtype == "bfloat16"
}


@gpu_interpreter.needed
@pytest.mark.parametrize("capacity", [256, 192])
def test_numbers_are_those_of_the_reference(capacity):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(3, 6, 64)), jnp.bfloat16)
    k, v = (
        jnp.asarray(rng.normal(size=(3, capacity, 2, 64)), jnp.bfloat16)
        for _ in range(2)
    )
    lengths = jnp.asarray([0, 130, capacity], jnp.int32)
    with gpu_interpreter.interpreted():
        out, lse = decode_attention(
            q, k, v, lengths, return_lse=True, implementation="pallas_gpu"
        )
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    wanted, wanted_lse = decode_attention(
        *wide, lengths, return_lse=True, implementation="xla"
    )
    assert (np.asarray(out[0]) == 0).all()
    assert (np.asarray(lse[0]) == -np.inf).all()
    np.testing.assert_allclose(lse[1:], wanted_lse[1:], atol=1e-4)
    apart = np.linalg.norm(np.asarray(out, np.float32) - np.asarray(wanted))
    assert apart < 4e-3 * np.linalg.norm(np.asarray(wanted))


@pytest.mark.parametrize("label", _SHAPES)
def test_every_shape_is_lowered(label):
    shape = _SHAPES[label]
    call = functools.partial(
        decode_attention, logit_cap=shape.logit_cap, implementation="pallas_gpu"
    )
    lowered = jax.jit(call).trace(*shape.arguments()).lower(
        lowering_platforms=("cuda",)
    )
    assert lowered.as_text().count("custom_call @mosaic_gpu") == 1
