"""Cross-entropy in tiles of the vocabulary equals that of whole logits."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tpu_aot
from jax.sharding import PartitionSpec

from soler1_jax.common.errors import UserError
from soler1_jax.training.chunked_cross_entropy import (
    Head,
    cross_entropy,
    token_logprobs,
)

TOKENS, CHANNELS, WORDS = (3, 4), 16, 53

HEADS = [
    Head(tile=8),
    Head(tile=8, vocab_axis=1, cap=3.0, temperature=0.7),
    Head(tile=53, cap=2.0),
    Head(tile=2048, vocab_axis=1, temperature=1.3),
]


def _problem(head, dtype=jnp.float32, shape=TOKENS, share=0.7):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(*shape, CHANNELS)), dtype)
    table = jnp.asarray(rng.normal(size=(WORDS, CHANNELS)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, WORDS, shape))
    mask = jnp.asarray(rng.random(shape) < share)
    return hidden, table.T if head.vocab_axis else table, targets, mask


def _whole(hidden, table, targets, mask, head):
    """optax's loss of whole logits."""
    table = table.astype(hidden.dtype)
    logits = hidden @ (table if head.vocab_axis else table.T)
    logits = logits.astype(jnp.float32)
    if head.cap:
        logits = head.cap * jnp.tanh(logits / head.cap)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits / head.temperature, targets
    )
    return jnp.sum(losses * mask) / mask.sum()


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradients_equal_those_of_whole_logits(head):
    problem = _problem(head)
    both = [
        jax.jit(jax.value_and_grad(lambda *x, f=f: f(*x, head), (0, 1)))(*problem)
        for f in (_whole, cross_entropy)
    ]
    for whole, tiled in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS[:2])
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_blocks_of_what_counts_are_enough(head, share):
    """Of 600 tokens in blocks of 128, the last of which is not whole."""
    problem = _problem(head, shape=(6, 100), share=share)
    both = [
        jax.jit(jax.value_and_grad(lambda *x, f=f: f(*x, head), (0, 1)))(*problem)
        for f in (_whole, cross_entropy)
    ]
    for whole, tiled in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-6)
    hidden, table, targets, mask = problem
    logprobs = token_logprobs(hidden, table, targets, head, mask)
    everywhere = token_logprobs(hidden, table, targets, head)
    np.testing.assert_allclose(logprobs, jnp.where(mask, everywhere, 0), rtol=1e-5)


def test_bfloat16_rounds_no_more_than_whole_logits_do():
    head = HEADS[0]
    exact = jax.grad(_whole, (0, 1))(*_problem(head), head)
    problem = _problem(head, jnp.bfloat16)
    for f in (_whole, cross_entropy):
        grads = jax.grad(f, (0, 1))(*problem, head)
        assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]
        for found, expected in zip(grads, exact, strict=True):
            np.testing.assert_allclose(
                found.astype(jnp.float32), expected, atol=0.01 * np.ptp(expected)
            )


def test_each_token_has_its_own_gain():
    head = HEADS[1]
    hidden, table, targets, mask = _problem(head)
    gain = jnp.asarray(np.random.default_rng(1).normal(size=TOKENS))

    def whole(hidden, table):
        one = [
            -_whole(hidden[i, j], table, targets[i, j], jnp.ones(()), head)
            for i in range(TOKENS[0])
            for j in range(TOKENS[1])
        ]
        return jnp.sum(jnp.stack(one).reshape(TOKENS) * gain)

    def tiled(hidden, table):
        return jnp.sum(token_logprobs(hidden, table, targets, head) * gain)

    both = [jax.value_and_grad(f, (0, 1))(hidden, table) for f in (whole, tiled)]
    for expected, found in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_tokens_that_do_not_count_have_no_gradient():
    hidden, table, targets, mask = _problem(HEADS[0])
    grad = jax.grad(cross_entropy)(hidden, table, targets, mask, HEADS[0])
    np.testing.assert_array_equal((grad != 0).any(-1), mask)
    nothing = jnp.zeros(TOKENS, bool)
    loss = cross_entropy(hidden, table, targets, nothing, HEADS[0])
    assert float(loss) == 0


def test_logits_of_any_size_stay_finite():
    hidden, table, targets, mask = _problem(HEADS[0])
    loss, grad = jax.value_and_grad(cross_entropy)(
        1e4 * hidden, table, targets, mask, HEADS[0]
    )
    assert np.isfinite(loss) and np.isfinite(grad).all()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"targets": (12,)}, r"predicts one target; .* targets \(12,\)"),
        ({"table": (CHANNELS, WORDS)}, r"\[V,D\] has vocab_axis 0.*D = 16"),
    ],
)
def test_wrong_shapes_are_one_line(change, rule):
    hidden, table, targets, _ = _problem(HEADS[0])
    parts = {"hidden": hidden, "table": table, "targets": targets}
    parts |= {k: jnp.zeros(v, parts[k].dtype) for k, v in change.items()}
    with pytest.raises(UserError, match=rule):
        token_logprobs(**parts, head=HEADS[0])


@pytest.mark.parametrize(
    "bad", [{"vocab_axis": 2}, {"temperature": 0.0}, {"cap": -1.0}, {"tile": 0}]
)
def test_impossible_heads_are_refused(bad):
    with pytest.raises(UserError):
        Head(**bad)


SHARDED = """
import re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import make_mesh, partition_spec
from soler1_jax.training.chunked_cross_entropy import Head, cross_entropy

B, S, D, V, TILE = 8, 3, 16, 96, 10
rng = np.random.default_rng(0)
hidden = jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32)
targets = jnp.asarray(rng.integers(0, V, (B, S)))
mask = jnp.asarray(rng.random((B, S)) < 0.7)
mesh = make_mesh((2, 2, 2))
for axis in (0, 1):
    table = jnp.asarray(rng.normal(size=(V, D) if axis == 0 else (D, V)), jnp.float32)
    names = ("vocab", "embed") if axis == 0 else ("embed", "vocab")
    lies = NamedSharding(mesh, partition_spec(names, table.shape, mesh))
    batch = NamedSharding(mesh, P(("data", "fsdp")))
    places = (batch, lies, batch, batch)
    def loss(head):
        return jax.value_and_grad(lambda *x: cross_entropy(*x, head), (0, 1))
    alone = Head(vocab_axis=axis, tile=TILE, cap=4.0, temperature=0.8)
    spread = Head(vocab_axis=axis, tile=TILE, cap=4.0, temperature=0.8, mesh=mesh)
    expected = jax.jit(loss(alone))(hidden, table, targets, mask)
    program = jax.jit(loss(spread), in_shardings=places).lower(
        hidden, table, targets, mask).compile()
    found = program(*jax.device_put((hidden, table, targets, mask), places))
    assert found[1][1].sharding.is_equivalent_to(lies, 2), found[1][1].sharding
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    moved = re.findall(r"= [a-z0-9]+\\[([\\d,]*)\\]\\S* (all-gather|all-reduce|"
        r"reduce-scatter|all-to-all|collective-permute)", program.as_text())
    sizes = {}
    for shape, kind in moved:
        size = int(np.prod([int(n) for n in shape.split(",") if n]))
        sizes[kind] = max(sizes.get(kind, 0), size)
    print(axis, sizes)
    # a tile is gathered, never the table; hidden's gradient is summed over `tensor`
    assert sizes["all-gather"] == TILE * D, sizes
    assert sizes["all-reduce"] <= B // 4 * S * D, sizes
    assert set(sizes) <= {"all-gather", "all-reduce", "reduce-scatter"}, sizes
try:
    cross_entropy(hidden[:3], table, targets[:3], mask[:3], spread)
except UserError as error:
    assert "splits tokens into 4 parts; got 3" in str(error)
else:
    raise AssertionError("three tokens on four parts")
"""


def test_eight_devices_equal_one_and_gather_a_tile_at_a_time():
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def _large(tokens, vocab_axis):
    """SOLE-R1-8B's head, float32 as while training."""
    shape = (151_936, 4096) if vocab_axis == 0 else (4096, 151_936)
    arrays = (
        ((tokens, 4096), jnp.bfloat16),
        (shape, jnp.float32),
        ((tokens,), jnp.int32),
        ((tokens,), jnp.bool_),
    )
    return [jax.ShapeDtypeStruct(*a) for a in arrays]


@pytest.mark.aot
def test_a_twentieth_of_the_memory_at_eight_billion_parameters():
    def plain(hidden, table, targets, mask):
        return _whole(hidden, table, targets, mask, Head(vocab_axis=1))

    def tiled(hidden, table, targets, mask):
        return cross_entropy(hidden, table, targets, mask, Head(vocab_axis=1))

    used = [
        tpu_aot.compile_for(
            "v5p", jax.value_and_grad(f, (0, 1)), *_large(8192, 1)
        ).memory.temp_size_in_bytes
        for f in (plain, tiled)
    ]
    assert used[0] >= 20 * used[1], used


@pytest.mark.aot
def test_spread_over_chips_the_memory_stays():
    mesh = tpu_aot.mesh("v5p", (1, 2, 2), ("data", "fsdp", "tensor"))
    head = Head(mesh=mesh)
    batch = PartitionSpec(("data", "fsdp"))
    program = tpu_aot.compile_for(
        "v5p",
        jax.value_and_grad(lambda *x: cross_entropy(*x, head), (0, 1)),
        *_large(2 * 8192, 0),
        mesh=mesh,
        specs=[batch, PartitionSpec("tensor", "fsdp"), batch, batch],
    )
    # of which the sum of the gradients of hidden states over `tensor` is half
    assert program.memory.temp_size_in_bytes < 420 * 2**20
