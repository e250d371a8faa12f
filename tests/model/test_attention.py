"""Attention in blocks against `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soler1_jax.model import attention


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    monkeypatch.setattr(attention, "_LARGE", 1)


def _draw(seed, batch, length, heads, groups, size, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    query = jax.random.normal(keys[0], (batch, length, heads, size), dtype)
    key, value = (
        jax.random.normal(k, (batch, length, groups, size), dtype) for k in keys[1:3]
    )
    return query, key, value, jax.random.bernoulli(keys[3], 0.7, (batch, 1, length))


def _ours(query, key, value, mask, causal):
    key, value = jnp.moveaxis(key, 1, -1), jnp.swapaxes(value, 1, 2)
    return attention.attend(query, key, value, mask, causal=causal)


def _reference(query, key, value, mask):
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:1], query.shape[1], mask.shape[2]))
        mask = mask[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 99),
    length=st.integers(1, 9),
    shared=st.integers(1, 3),
    groups=st.integers(1, 2),
    block=st.integers(1, 40),
    kind=st.sampled_from(["none", "padding", "causal"]),
)
def test_blocks_compute_what_jax_does(seed, length, shared, groups, block, kind):
    query, key, value, mask = _draw(seed, 2, length, shared * groups, groups, 4)
    # Without any allowed key the two define the result differently.
    mask = mask.at[:, :, 0].set(True)
    causal = kind == "causal"
    if causal:
        mask = mask & jnp.tril(jnp.ones((length, length), bool))
    mask = None if kind == "none" else mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_BLOCK", block)
        patch.setattr(attention, "_CAUSAL_QUERIES", 1 + block % 4)
        ours = _ours(query, key, value, mask, causal)
    np.testing.assert_allclose(
        ours, _reference(query, key, value, mask), atol=2e-6, rtol=2e-6
    )


def test_gradients_are_those_of_jax(monkeypatch):
    monkeypatch.setattr(attention, "_CAUSAL_QUERIES", 3)
    query, key, value, mask = _draw(0, 2, 8, 4, 2, 8)
    mask = mask.at[:, :, 0].set(True) & jnp.tril(jnp.ones((8, 8), bool))

    def loss(f):
        return lambda *x: jnp.sum(jnp.sin(f(*x)))

    ours = jax.grad(loss(lambda *x: _ours(*x, mask, True)), (0, 1, 2))
    theirs = jax.grad(loss(lambda *x: _reference(*x, mask)), (0, 1, 2))
    for a, b in zip(ours(query, key, value), theirs(query, key, value), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6, rtol=5e-6)


def test_blocks_keep_bfloat16():
    query, key, value, _ = _draw(0, 2, 8, 4, 2, 64, jnp.bfloat16)
    ours = _ours(query, key, value, None, False)
    assert ours.dtype == jnp.bfloat16
    exact = _reference(*(x.astype(jnp.float32) for x in (query, key, value)), None)
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, atol=2e-2)


def test_a_query_that_may_look_nowhere_is_not_nan():
    query, key, value, mask = _draw(0, 1, 6, 2, 1, 4)
    out = _ours(query, key, value, jnp.zeros_like(mask), False)
    assert np.all(np.isfinite(out))


def test_soft_caps_bound_the_scores_of_blocks(monkeypatch):
    query, key, value, mask = _draw(0, 2, 6, 4, 2, 8)
    key, value = jnp.moveaxis(key, 1, -1), jnp.swapaxes(value, 1, 2)
    given = {"divisor": 5.0, "cap": 0.7}
    blocks = attention.attend(query, key, value, mask, **given)
    monkeypatch.setattr(attention, "_LARGE", 10**9)
    whole = attention.attend(query, key, value, mask, **given)
    np.testing.assert_allclose(blocks, whole, atol=2e-6)
