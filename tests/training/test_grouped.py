"""Prompts computed once teach and write what full copies do."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import packed_cases
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import make_mesh
from soler1_jax.data.packing import make_example, one_a_row
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt
from soler1_jax.training import grouped, grpo, state
from soler1_jax.training.chunked_cross_entropy import Head
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.optimizer import OptimizerConfig, make_optimizer

GROUP, LENGTH, TEMPERATURE = 3, 6, 0.7
SHAPE = dataclasses.replace(packed_cases.SHAPE, length=40)


def _problem(tie=False):
    """Four prompts of 8 to 26 tokens, with none, one and two pictures."""
    config = packed_cases.config(tie=tie)
    raws = packed_cases.raws(config)[:4]
    examples = [make_example(config, ids, w, **rest) for ids, w, rest in raws]
    functions = Functional(config)
    params = jax.jit(lambda: functions.init(0))()
    return functions, params, raws, one_a_row(examples, config, SHAPE)


def _completions(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 90, (4, GROUP, LENGTH)).astype(np.int32)
    lengths = rng.integers(1, LENGTH + 1, (4, GROUP)).astype(np.int32)
    lengths[0, 0], lengths[1, 1] = 1, LENGTH
    tokens *= np.arange(LENGTH) < lengths[..., None]
    return jnp.asarray(tokens), jnp.asarray(lengths)


def _copied(functions, params, raws, tokens, lengths):
    """Log-probabilities [B, G, S]: each completion behind its own copy of the prompt."""
    longest = max(len(ids) for ids, _, _ in raws)
    ids, mask = np.zeros((2, len(raws), longest), int)
    for row, (words, _, _) in enumerate(raws):
        ids[row, : len(words)], mask[row, : len(words)] = words, 1
    pictures = [rest for _, _, rest in raws if rest]
    joined = {name: np.concatenate([p[name] for p in pictures]) for name in pictures[0]}
    prompt, patches = make_prompt(functions.config, ids, mask, **joined, exact=True)
    model = functions.module(params)
    prefix = model.mix(prompt, model.encode_patches(patches))
    prefix = jax.tree.map(lambda x: jnp.repeat(x, GROUP, axis=0), prefix)
    flat, counts = tokens.reshape(-1, LENGTH), lengths.reshape(-1, 1)
    logits = model.logits(prefix, flat, jnp.arange(LENGTH) < counts).logits
    return grpo.token_logprobs(logits, flat, TEMPERATURE).reshape(tokens.shape)


@pytest.mark.parametrize("tie", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_logprobs_and_gradients_equal_those_of_copies(tie):
    functions, params, raws, prompts = _problem(tie)
    tokens, lengths = _completions()
    there = jnp.arange(LENGTH) < lengths[..., None]
    weights = jax.random.normal(jax.random.key(1), tokens.shape) * there
    head = Head(temperature=TEMPERATURE, tile=40)

    def shared(params):
        model = functions.module(params)
        found = grouped.completion_logprobs(model, prompts, tokens, lengths, head)
        return jnp.sum(found * weights), found * there

    def copied(params):
        found = _copied(functions, params, raws, tokens, lengths)
        return jnp.sum(found * weights), found * there

    found, expected = (
        jax.jit(jax.grad(f, has_aux=True))(params) for f in (shared, copied)
    )
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected[0]))
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(expected[0]),
        jax.tree.leaves(found[0]),
        strict=True,
    ):
        np.testing.assert_allclose(
            other, one, rtol=1e-3, atol=2e-6 * scale, err_msg=str(path)
        )


def _trainer(functions, params, config, stop_ids=(), rate=1e-2, mesh=None):
    mesh = mesh or make_mesh((1, 1, 1))
    logical = functions.logical_axes()
    tx = make_optimizer(OptimizerConfig(weight_decay=0.0), lambda _: rate, logical)
    first = jax.device_get(state.create(params, tx, 0))
    placed = state.state_shardings(first, mesh, logical)
    sample = grouped.make_sampler(
        functions, config, LENGTH, stop_ids, mesh, placed.params
    )
    update = grouped.make_update(functions, tx, config, mesh, placed, tile=40)
    return jax.device_put(first, placed), sample, update


def test_the_sampler_notes_what_the_update_finds():
    functions, params, _, prompts = _problem()
    config = GrpoConfig(group=GROUP, temperature=TEMPERATURE)
    stops = tuple(range(20, 50))
    current, sample, update = _trainer(functions, params, config, stops)
    out = sample(current.params, prompts, jax.random.key(0))
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
    assert tokens.shape == (4, GROUP, LENGTH) and len(np.unique(lengths)) > 2
    there = np.arange(LENGTH) < lengths[..., None]
    stopped = np.isin(tokens, stops) & there
    np.testing.assert_array_equal(stopped.any(axis=2), out.ended)
    assert stopped.sum(axis=2).max() == 1, "written on after the stop"
    assert not tokens[~there].any()
    earned = jnp.asarray(np.random.default_rng(0).uniform(size=(4, GROUP)), "float32")
    _, metrics = update(current, prompts, out._replace(rewards=earned))
    assert float(metrics["mismatch_ratio"]) < 1 + 1e-3
    np.testing.assert_allclose(metrics["ratio"], 1, rtol=1e-6)
    np.testing.assert_allclose(metrics["truncated"], 1 - np.mean(out.ended), rtol=1e-6)
    np.testing.assert_allclose(metrics["length"], lengths.mean(), rtol=1e-6)


@pytest.mark.slow
def test_what_is_paid_for_is_learnt():
    """A bandit: the share of even first tokens is the reward, whose best value is 1."""
    functions, params, _, prompts = _problem()
    config = GrpoConfig(group=16, temperature=1.0, top_p=1.0)
    current, sample, update = _trainer(functions, params, config, (), rate=3e-3)
    shares = []
    for i in range(40):
        out = sample(current.params, prompts, jax.random.key(i))
        earned = (out.tokens[..., 0] % 2 == 0).astype(jnp.float32)
        shares.append(float(earned.mean()))
        current, metrics = update(current, prompts, out._replace(rewards=earned))
    assert int(metrics["bad_step"]) == -1
    assert np.mean(shares[:3]) < 0.7 and np.mean(shares[-3:]) > 0.95, shares
    assert update._cache_size() == 1 and sample._cache_size() == 1, "recompiled"


def test_a_divergence_needs_the_frozen_model():
    functions, params, _, prompts = _problem()
    with pytest.raises(UserError, match="--kl 0.1 without a reference"):
        _trainer(functions, params, GrpoConfig(group=GROUP, kl=0.1))


def test_capped_logits_are_refused():
    functions, _, _, prompts = _problem()
    text = dataclasses.replace(functions.config.text, attn_logit_softcapping=30.0)
    capped = Functional(dataclasses.replace(functions.config, text=text))
    tokens, lengths = _completions()
    with pytest.raises(UserError, match="logits are not capped"):
        jax.eval_shape(
            lambda p: grouped.completion_hidden(
                capped.module(p), prompts, tokens, lengths
            ),
            capped.shapes(),
        )


def test_models_that_do_not_suit_are_refused():
    functions = Functional(presets.preset("nano", 300))
    with pytest.raises(UserError, match="packed rows need a causal decoder"):
        grouped.make_sampler(functions, GrpoConfig(), LENGTH, (), make_mesh(), None)
    functions = Functional(packed_cases.config())
    with pytest.raises(UserError, match="2 tokens or more; got 1"):
        grouped.make_sampler(functions, GrpoConfig(), 1, (), make_mesh(), None)


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
import jax, numpy as np
import jax.numpy as jnp
from jax.sharding import Mesh
from soler1_jax.common.mesh import AXES
from test_grouped import GrpoConfig, _problem, _trainer
functions, params, _, prompts = _problem()
config = GrpoConfig(group=4)
prompts = jax.tree.map(lambda x: np.concatenate([x, x]), prompts)
def train(sizes):
    devices = np.array(jax.devices()[:int(np.prod(sizes))]).reshape(sizes)
    mesh = Mesh(devices, AXES)
    current, sample, update = _trainer(
        functions, params, config, tuple(range(30)), 1e-4, mesh
    )
    told = []
    for i in range(20):
        out = sample(current.params, prompts, jax.random.key(i))
        earned = (out.tokens[..., 0] % 3).astype(jnp.float32)
        current, metrics = update(current, prompts, out._replace(rewards=earned))
        told.append([float(metrics[k]) for k in ("loss", "reward", "length")])
    return np.array(told), jax.device_get(jax.tree.leaves(current.params))
expected, single = train((1, 1, 1))
for sizes in (8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8):
    told, many = train(sizes)
    np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-6, err_msg=str(sizes))
    for a, b in zip(single, many):
        np.testing.assert_allclose(b, a, atol=1e-4)
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    folders = [os.path.dirname(packed_cases.__file__), os.path.dirname(__file__)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
