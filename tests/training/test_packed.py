"""Packed rows teach what their records teach one by one, on any mesh."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import packed_cases
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import make_mesh
from soler1_jax.data.packing import empty_rows, pack
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt
from soler1_jax.training import packed, state
from soler1_jax.training.optimizer import (
    OptimizerConfig,
    in_float32,
    make_optimizer,
    schedule,
)
from soler1_jax.training.packed import PackedConfig

TILE = PackedConfig(tile=40)


# Patches enough for a kernel (`segment_attention.SHORT`), several pictures in a place.
SHARED = dataclasses.replace(packed_cases.SHAPE, pictures=1, patches=160, shared=True)


def _problem(tie, shape=packed_cases.SHAPE):
    config = packed_cases.config(tie=tie)
    (batch,) = pack(packed_cases.records(config), config, shape)
    assert batch.segments.max(axis=1).max() > 1, "nothing is packed"
    return Functional(config), batch


def _one_a_row(config):
    """The records padded to equal length, and their weights."""
    raws = packed_cases.raws(config)
    length = max(len(ids) for ids, _, _ in raws)
    ids, mask, weights = np.zeros((3, len(raws), length))
    for row, (words, counts, _) in enumerate(raws):
        at = row, slice(len(words))
        ids[at], mask[at], weights[at] = words, 1, counts
    pictures = [rest for _, _, rest in raws if rest]
    joined = {name: np.concatenate([p[name] for p in pictures]) for name in pictures[0]}
    prompt, patches = make_prompt(config, ids.astype(int), mask, **joined, exact=True)
    return prompt, patches, weights


def _one_by_one(functions, params):
    """optax's loss of whole logits; the model runs as it does to answer questions."""
    prompt, patches, weights = _one_a_row(functions.config)
    features = functions.encode_patches(params, patches)
    logits = functions.prompt_logits(params, functions.mix(params, prompt, features))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], prompt.ids[:, 1:]
    )
    return jnp.sum(losses * weights[:, 1:]) / weights[:, 1:].sum()


@pytest.mark.parametrize(
    ("tie", "shape"),
    [
        (False, packed_cases.SHAPE),
        (False, SHARED),
        pytest.param(True, packed_cases.SHAPE, marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradients_equal_those_of_the_records_alone(tie, shape):
    functions, batch = _problem(tie, shape)
    assert not shape.shared or batch.patches.mask.max() > 1
    params = _initial(functions)

    def together(params):
        return packed.loss(functions.module(params), batch, TILE)

    def alone(params):
        return _one_by_one(functions, params)

    found, expected = (
        jax.jit(jax.value_and_grad(f))(params) for f in (together, alone)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected[1]))
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(expected[1]),
        jax.tree.leaves(found[1]),
        strict=True,
    ):
        np.testing.assert_allclose(
            other, one, rtol=1e-3, atol=1e-6 * scale, err_msg=str(path)
        )


def test_records_of_a_row_do_not_see_each_other():
    functions, batch = _problem(tie=True)
    model = functions.module(_initial(functions))
    run = jax.jit(lambda rows: packed.hidden_states(model, rows))
    row = int(np.flatnonzero(batch.segments.max(axis=1) > 1)[0])
    first = batch.segments[row] == 1
    ids = batch.ids.copy()
    ids[row, first & (batch.source[row] < 0)] += 1
    values = batch.patches.values.copy()
    values[row, 0] += 1
    changed = batch._replace(ids=ids, patches=batch.patches._replace(values=values))
    before, after = np.asarray(run(batch)[row]), np.asarray(run(changed)[row])
    assert np.abs(after - before)[first].max(axis=1).min() > 1e-3
    others = ~first & (batch.segments[row] > 0)
    np.testing.assert_array_equal(before[others], after[others])


@functools.cache
def _initial(functions):
    return jax.jit(lambda: functions.init(0))()


def _state(functions, config=TILE, dtype="float32"):
    mesh = make_mesh((1, 1, 1))
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    tx = make_optimizer(settings, schedule(settings, 50), functions.logical_axes())
    tx = in_float32(tx)

    params = jax.tree.map(lambda p: p.astype(dtype), _initial(functions))
    first = jax.device_get(state.create(params, tx, 0))
    placed = state.state_shardings(first, mesh, functions.logical_axes())
    step = packed.make_step(functions, tx, config, mesh, placed)
    return jax.device_put(first, placed), step


@pytest.mark.slow
def test_microbatches_sum_to_the_batch():
    functions, batch = _problem(tie=False)
    results = []
    for count in (1, 4):
        config = dataclasses.replace(TILE, microbatches=count)
        current, step = _state(functions, config)
        results.append(step(current, batch))
    (one, metrics), (other, found) = results
    for name in ("loss", "tokens", "grad_norm"):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-5)
    moments = [s.opt_state[1][0].mu for s in (one, other)]
    scale = max(float(jnp.abs(m).max()) for m in jax.tree.leaves(moments[0]))
    for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6 * scale)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_a_batch_is_learnt_by_heart_and_moments_stay_float32(dtype):
    functions, batch = _problem(tie=False)
    current, step = _state(functions, dtype=dtype)
    losses = []
    for _ in range(30):
        current, metrics = step(current, batch)
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1, "recompiled"
    assert losses[-1] < 0.2 * losses[0], losses
    assert {p.dtype for p in jax.tree.leaves(current.params)} == {jnp.dtype(dtype)}
    moments = jax.tree.leaves(current.opt_state[1][0])[1:]
    assert {m.dtype for m in moments} == {jnp.dtype("float32")}
    weights = packed.targets(batch)[1]
    np.testing.assert_allclose(metrics["tokens"], weights.sum())


def test_empty_rows_change_nothing_but_the_decay():
    functions, _ = _problem(tie=False)
    current, step = _state(functions)
    after, metrics = step(current, empty_rows(functions.config, packed_cases.SHAPE))
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    assert int(after.step) == 1


def test_scanned_gains_and_biases_are_not_decayed():
    functions = Functional(packed_cases.config())
    settings = OptimizerConfig(learning_rate=1.0, weight_decay=0.5)
    tx = make_optimizer(settings, lambda _: 1.0, functions.logical_axes())
    params = jax.tree.map(lambda s: np.ones(s.shape, "float32"), functions.shapes())
    updates = jax.jit(
        lambda p: tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)[0]
    )(params)
    pulled = {
        path[-1].key: set() for path, _ in jax.tree_util.tree_leaves_with_path(updates)
    }
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        pulled[path[-1].key] |= set(np.unique(update).tolist())
    assert pulled == {
        "kernel": {-0.5},
        "embedding": {-0.5},
        "bias": {0.0},
        "scale": {0.0},
    }


@pytest.mark.parametrize("name", ["nano", "paligemma2-3b-224"])
def test_models_that_packing_does_not_suit_are_refused(name):
    with pytest.raises(UserError, match="packed rows need a causal decoder"):
        packed.check_model(presets.preset(name, 300))


def test_rows_must_divide_into_microbatches():
    functions, batch = _problem(tie=False)
    current, step = _state(functions, dataclasses.replace(TILE, microbatches=3))
    with pytest.raises(UserError, match="into 3 parts; got 4 rows"):
        step(current, batch)


PROGRAM = """
import sys
sys.path.append(sys.argv[1])
import jax, numpy as np
import packed_cases
from jax.sharding import Mesh
from soler1_jax.common.mesh import AXES
from soler1_jax.data.packing import RowShape, pack
from soler1_jax.model.functional import Functional
from soler1_jax.training import packed, state
from soler1_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule

functions = Functional(packed_cases.config())
made = packed_cases.records(functions.config) * 2
shape = RowShape(rows=8, length=40, pictures=3, patches=16)
(batch,) = pack(made, functions.config, shape)
# a rate at which Adam's division of tiny gradients does not make rounding grow
settings = OptimizerConfig(learning_rate=1e-4, warmup_steps=0)
tx = make_optimizer(settings, schedule(settings, 20), functions.logical_axes())
params = jax.jit(lambda: functions.init(0))()
first = jax.device_get(state.create(params, tx, 0))

def train(sizes, parts):
    count = int(np.prod(sizes))
    mesh = Mesh(np.array(jax.devices()[:count]).reshape(sizes), AXES)
    placed = state.state_shardings(first, mesh, functions.logical_axes())
    config = packed.PackedConfig(tile=20, microbatches=parts)
    step = packed.make_step(functions, tx, config, mesh, placed)
    current, losses = jax.device_put(first, placed), []
    for _ in range(20):
        current, metrics = step(current, batch)
        losses.append([float(metrics[k]) for k in ("loss", "tokens")])
    assert step._cache_size() == 1, "recompiled"
    leaves = jax.tree.leaves(current.params)
    split = sum(not x.sharding.is_fully_replicated for x in leaves)
    assert (split > 0) == (sizes[1] * sizes[2] > 1), split
    return np.array(losses), jax.device_get(leaves)

expected, single = train((1, 1, 1), 1)
for sizes, parts in ((8, 1, 1), 1), ((2, 4, 1), 1), ((2, 2, 2), 2), ((1, 1, 8), 4):
    losses, many = train(sizes, parts)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=str(sizes))
    for a, b in zip(single, many):
        np.testing.assert_allclose(b, a, atol=1e-4)
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, os.path.dirname(packed_cases.__file__)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
