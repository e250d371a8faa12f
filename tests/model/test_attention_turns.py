"""Queries that take turns get the same answer in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.model import attention


@pytest.fixture
def no_blocks(monkeypatch):
    # Blocks are what a CPU does instead.
    monkeypatch.setattr(attention, "_LARGE", 10**9)


def _case(length, keys, seed=0):
    draw = jax.random.split(jax.random.key(seed), 4)
    query = jax.random.normal(draw[0], (2, length, 4, 8))
    key = jax.random.normal(draw[1], (2, 2, 8, keys))
    value = jax.random.normal(draw[2], (2, 2, keys, 8))
    return query, key, value, jax.random.bernoulli(draw[3], 0.7, (2, length, keys))


@pytest.mark.parametrize("masked", ["none", "one for all", "each"])
@pytest.mark.parametrize("length", [7, 64, 65])
def test_taking_turns_changes_nothing(monkeypatch, no_blocks, masked, length):
    query, key, value, mask = _case(length, 33)
    mask = {"none": None, "one for all": mask[:, :1], "each": mask}[masked]

    def loss(query, key, value):
        out = attention.attend(query, key, value, mask, cap=20.0)
        return jnp.sum(out * jnp.cos(jnp.arange(8.0))), out

    step = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (_, whole), gradients = step(query, key, value)
    # 16 queries at once.
    monkeypatch.setattr(attention, "LONG", 33)
    monkeypatch.setattr(attention, "MOST_SCORES", 16 * 2 * 4 * 33)
    (_, turns), others = step(query, key, value)
    np.testing.assert_allclose(turns, whole, atol=2e-6)
    for mine, theirs in zip(others, gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize("large", [attention._LARGE, 10**9])
def test_a_large_picture_takes_bounded_memory(monkeypatch, large):
    monkeypatch.setattr(attention, "_LARGE", large)
    # One picture of 3,456 patches, 16 heads: 764 MB of scores.
    shape = jax.ShapeDtypeStruct((1, 3456, 16, 64), jnp.float32)
    keys = jax.ShapeDtypeStruct((1, 16, 64, 3456), jnp.float32)
    values = jax.ShapeDtypeStruct((1, 16, 3456, 64), jnp.float32)
    run = jax.jit(lambda q, k, v: attention.attend(q, k, v, None))
    needed = run.lower(shape, keys, values).compile().memory_analysis()
    # Scores and their softmax at 64 MB each, twice; 1,529 MB if all are held at once.
    assert needed.temp_size_in_bytes < 400e6
