"""Blocks on a CPU: few where all is needed, small where some can be left out."""

import functools

import jax
import jax.numpy as jnp
import pytest
from soler1_jax.kernels.flash_attention import api
from soler1_jax.kernels.flash_attention.shapes import SHAPES


def compiled(length, causal=False, batch=1, heads=2, size=16):
    x = jax.ShapeDtypeStruct((batch, length, heads, size), jnp.float32)
    attend = functools.partial(api.flash_attention, causal=causal, implementation="xla")

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v) ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()


@pytest.mark.parametrize("name", ["paligemma-2 vit", "nano vit"])
def test_pictures_seen_whole_are_one_product(name):
    shape = SHAPES[name]
    program = compiled(shape.length, False, shape.batch, shape.heads, shape.size)
    assert " while(" not in program.as_text()


def test_later_keys_are_left_out_by_a_loop():
    assert " while(" in compiled(512, causal=True).as_text()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_length(causal):
    sizes = [
        compiled(n, causal).memory_analysis().temp_size_in_bytes for n in (4096, 8192)
    ]
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[1] < 4 * 8192**2


def test_many_heads_take_smaller_blocks():
    """One matrix of logits of all heads would be 256 MiB."""
    few = compiled(512, batch=32, heads=8).memory_analysis().temp_size_in_bytes
    assert few < 200 * 2**20
