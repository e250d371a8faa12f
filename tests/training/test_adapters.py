"""What is trained and what is not; low-rank factors against the kernels they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import packed_cases
import pytest
import tiny_qwen
import tpu_aot

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError
from soler1_jax.data.packing import RowShape, empty_rows, pack
from soler1_jax.model.functional import Functional
from soler1_jax.training import packed
from soler1_jax.training import state as states
from soler1_jax.training.adapters import Trained, join, merged, with_factors
from soler1_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule

BASE = packed_cases.config()
LORA = Trained(lora_rank=3, lora_alpha=6.0)


def _leaves(tree):
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in found}


@pytest.fixture(scope="module")
def params():
    return Functional(BASE).init(0)


@pytest.fixture(scope="module")
def factored(params):
    return with_factors(LORA.config(BASE), params, 1)


@pytest.fixture(scope="module")
def rows():
    (batch,) = pack(packed_cases.records(BASE)[:4], BASE, packed_cases.SHAPE)
    return batch


@pytest.mark.parametrize(
    ("trained", "chosen"),
    [
        (Trained(), lambda name: True),
        (Trained(encoder=False), lambda name: not name.startswith("visual")),
        (LORA, lambda name: name.endswith(("lora_a", "lora_b"))),
    ],
)
def test_parts_are_what_they_should_be_and_join_again(
    trained, chosen, params, factored
):
    tree = factored if trained.lora_rank else params
    ours, rest = trained.split(tree)
    names = _leaves(tree)
    assert set(_leaves(ours)) == {name for name in names if chosen(name)}
    assert set(_leaves(rest)) == {name for name in names if not chosen(name)}
    again = _leaves(join(ours, rest))
    assert all(again[name] is leaf for name, leaf in names.items())


def test_every_kernel_of_the_decoder_has_factors(factored):
    ours, _ = LORA.split(factored)
    parts = {name.split("/")[-2] for name in _leaves(ours)}
    attention = {f"{x}_proj" for x in "qkvo"}
    assert parts == attention | {"gate_proj", "up_proj", "down_proj"}
    assert all(name.startswith("language_model") for name in _leaves(ours))


def test_fresh_factors_change_nothing_and_trained_ones_what_their_product_does(
    params, factored, rows
):
    config = LORA.config(BASE)
    plain, with_lora = Functional(BASE), Functional(config)

    def hidden(functions, tree):
        run = jax.jit(lambda p: packed.hidden_states(functions.module(p), rows))
        return np.asarray(run(tree))

    before = hidden(plain, params)
    np.testing.assert_allclose(hidden(with_lora, factored), before, atol=1e-6)
    rng = np.random.default_rng(0)
    moved = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jnp.asarray(rng.normal(size=x.shape, scale=0.1), x.dtype)
            if path[-1].key == "lora_b"
            else x
        ),
        factored,
    )
    there = np.asarray(rows.segments) > 0
    with_product = hidden(with_lora, moved)[there]
    assert np.abs(with_product - before[there]).max() > 0.05
    folded = merged(config, moved)
    assert set(_leaves(folded)) == set(_leaves(params))
    np.testing.assert_allclose(
        hidden(plain, folded)[there], with_product, atol=2e-5, rtol=1e-4
    )


def test_only_what_is_chosen_learns(params, rows):
    trained = Trained(encoder=False)
    functions, mesh = Functional(BASE), meshes.mesh_of(jax.devices()[:1], (1, 1, 1))
    logical = functions.logical_axes()
    ours, rest = trained.split(params)
    rate = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(rate, schedule(rate, 9), trained.split(logical)[0])
    state = states.create(jax.tree.map(jnp.copy, ours), optimizer, 0)
    placed = states.state_shardings(state, mesh, logical)
    frozen = trained.split(meshes.shardings(logical, functions.shapes(), mesh))[1]
    step = packed.make_step(
        functions, optimizer, packed.PackedConfig(), mesh, placed, frozen
    )
    losses = []
    for _ in range(6):
        state, metrics = step(jax.device_put(state, placed), rows, rest)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert moments < 2.1 * sum(x.size for x in jax.tree.leaves(ours))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, ours)
    assert sum(jax.tree.leaves(changed)) > 0.9 * len(jax.tree.leaves(changed))


def test_a_choice_of_nothing_is_one_line(params):
    only_encoder = {"visual": params["visual"]}
    with pytest.raises(UserError, match="nothing of this model would be trained"):
        Trained(encoder=False).split(only_encoder)
    with pytest.raises(UserError, match="--lora-rank"):
        dataclasses.replace(LORA, lora_rank=-1)


@pytest.mark.aot
@pytest.mark.parametrize("trained", [LORA, Trained()], ids=["factors", "all"])
def test_steps_on_shared_pictures_compile_for_a_pod(trained):
    mesh = tpu_aot.mesh("v5p", (1, 4, 1), meshes.AXES)
    config = trained.config(dataclasses.replace(tiny_qwen.config(), dtype="bfloat16"))
    functions = Functional(config)
    logical, shapes = functions.logical_axes(), functions.shapes()
    optimizer = make_optimizer(
        OptimizerConfig(), lambda _: 1e-4, trained.split(logical)[0]
    )
    ours, rest = trained.split(shapes)
    state = jax.eval_shape(lambda p: states.create(p, optimizer, 0), ours)
    placed = states.state_shardings(state, mesh, logical)
    frozen = trained.split(meshes.shardings(logical, shapes, mesh))[1]
    step = packed.make_step(
        functions, optimizer, packed.PackedConfig(), mesh, placed, frozen
    )
    shape = RowShape(rows=4, length=256, pictures=1, patches=512, shared=True)
    by_row = meshes.batch_sharding(mesh)

    def described(tree, where, dtype=None):
        where = jax.tree.map(lambda _: where, tree) if where is by_row else where
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=s),
            tree,
            where,
        )

    compiled = step.lower(
        described(state, placed),
        described(empty_rows(config, shape), by_row),
        described(rest, frozen, jnp.bfloat16),
    ).compile()
    assert "flash_attention_key_gradients" in compiled.as_text()
    arguments = compiled.memory_analysis().argument_size_in_bytes
    weights = sum(x.size for x in jax.tree.leaves(shapes)) / mesh.size
    # float32 with two moments, or bfloat16 and little else
    assert arguments < (16 if trained == Trained() else 7) * weights + 6e6
