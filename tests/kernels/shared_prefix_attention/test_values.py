"""Shared-prefix attention against attention over full copies, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import TOLERANCE, normal, relative_errors, with_gradients
from hypothesis import example, given, settings
from hypothesis import strategies as st
from soler1_jax.kernels.flash_attention import api as flash
from soler1_jax.kernels.shared_prefix_attention import api, reference


def check(implementation, batch, members, sizes, heads, dtype, lengths, seed):
    prefix, suffix, size = sizes
    rng = np.random.default_rng(seed)
    head_counts = (heads[0] * heads[1], heads[0], heads[0])
    arguments = [
        normal(rng, dtype, *shape, count, size)
        for shape in ((batch, prefix), (batch, members, suffix))
        for count in head_counts
    ]
    given = {}
    if lengths in ("prefix", "both"):
        drawn = rng.integers(0, prefix + 1, batch)
        given["prefix_lengths"] = jnp.asarray(drawn, jnp.int32)
    if lengths in ("suffix", "both"):
        drawn = rng.integers(0, suffix + 1, (batch, members))
        given["suffix_lengths"] = jnp.asarray(drawn, jnp.int32)

    def fast(*arguments):
        return api.shared_prefix_attention(
            *arguments, **given, implementation=implementation
        )

    def copied(*arguments):
        return reference.shared_prefix_attention(*arguments, **given)

    weights = [
        np.asarray(normal(rng, dtype, *arguments[i].shape), np.float64) for i in (0, 3)
    ]
    got = with_gradients(fast, arguments, weights)
    exact = with_gradients(copied, arguments, weights, "float64")
    assert max(relative_errors(got, exact, 2)) <= TOLERANCE[dtype]


def draw(most):
    """G from 1 to 16, one-token and empty suffixes among them."""
    return dict(
        batch=st.integers(1, 2),
        members=st.integers(1, 16),
        sizes=st.tuples(
            st.integers(1, most), st.integers(1, 20), st.sampled_from([8, 24])
        ),
        heads=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        lengths=st.sampled_from(["none", "prefix", "suffix", "both"]),
        seed=st.integers(0, 2**16),
    )


@settings(max_examples=5)
@given(**draw(300))
@example(batch=1, members=16, sizes=(140, 1, 8), heads=(1, 2), lengths="both", seed=0)
def test_xla_equals_full_copies(**case):
    check("xla", dtype="float32", **case)


@pytest.mark.slow
@settings(max_examples=2)
@given(**draw(200))
def test_tpu_kernels_equal_full_copies(**case):
    check("interpret", dtype="float32", **case)


@pytest.mark.slow
@settings(max_examples=8)
@given(**draw(300))
def test_tpu_kernels_equal_full_copies_in_many_cases(**case):
    check("interpret", dtype="float32", **case)


def test_bfloat16():
    check("xla", 2, 5, (200, 40, 64), (2, 2), "bfloat16", True, 0)


def _small(**change):
    q, k = jnp.zeros((2, 8, 4, 16)), jnp.zeros((2, 8, 2, 16))
    arguments = {"q_prefix": q, "k_prefix": k, "v_prefix": k}
    for name in "qkv":
        x = arguments[f"{name}_prefix"]
        arguments[f"{name}_suffix"] = jnp.stack([x[:, :3]] * 5, axis=1)
    return {**arguments, **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_suffix": jnp.zeros((2, 3, 4, 16))}, "5 dimensions"),
        ({"v_suffix": jnp.zeros((2, 5, 3, 4, 16))}, "Hkv of v_suffix"),
        ({"prefix_lengths": jnp.zeros(3, jnp.int32)}, "B of prefix_lengths"),
        ({"suffix_lengths": jnp.zeros((2, 4), jnp.int32)}, "G of suffix_lengths"),
        ({"suffix_lengths": jnp.zeros((2, 5))}, "int32; got float32"),
        ({"implementation": "cudnn"}, "no differentiable log-normaliser; use 'xla'"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        api.shared_prefix_attention(**_small(**change))
    assert "\n" not in str(caught.value)


def test_activations_kept_are_a_quarter_of_those_of_copies():
    """What the forward pass saves for the backward one, counted by shape."""
    members, prefix, suffix = 8, 1024, 128
    q = jnp.zeros((1, prefix, 4, 16), jnp.bfloat16)
    s = jnp.zeros((1, members, suffix, 4, 16), jnp.bfloat16)

    def copied(q, k, v, qs, ks, vs):
        joined = (reference.copies(*pair) for pair in ((q, qs), (k, ks), (v, vs)))
        return flash.flash_attention(*joined, causal=True)

    def saved(function):
        arguments = (q, q, q, s, s, s)
        _, pull = jax.eval_shape(lambda *a: jax.vjp(function, *a), *arguments)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))

    assert saved(api.shared_prefix_attention) <= saved(copied) / 4
