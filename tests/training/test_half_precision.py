"""In bfloat16 all products with weights are made in bfloat16, whichever way they go."""

import dataclasses

import jax
import packed_cases
import pytest
from jax.extend import core

from soler1_jax.common.mesh import make_mesh
from soler1_jax.data.packing import pack
from soler1_jax.model.functional import Functional
from soler1_jax.training import grouped, packed, state
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule


def equations(jaxpr):
    """All equations, those of programs within included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
        ):
            if isinstance(value, core.ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, core.Jaxpr):
                yield from equations(value)


def products(jaxpr):
    """dtypes of both factors of each product that is not one a head, as attention's are."""
    for equation in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            batched = equation.params["dimension_numbers"][1][0]
            if not batched:
                yield tuple(str(v.aval.dtype) for v in equation.invars)


@pytest.fixture(params=[True, False], ids=["tied", "apart"])
def problem(request):
    config = packed_cases.config(tie=request.param)
    config = dataclasses.replace(config, dtype="bfloat16")
    (batch,) = pack(packed_cases.records(config), config, packed_cases.SHAPE)
    functions, mesh = Functional(config), make_mesh((1, 1, 1))
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    tx = make_optimizer(settings, schedule(settings, 50), functions.logical_axes())
    first = jax.eval_shape(lambda p: state.create(p, tx, 0), functions.shapes())
    placed = state.state_shardings(first, mesh, functions.logical_axes())
    return functions, tx, batch, mesh, first, placed


def test_a_step_multiplies_no_weights_in_float32(problem):
    functions, tx, batch, mesh, first, placed = problem
    step = packed.make_step(functions, tx, packed.PackedConfig(tile=40), mesh, placed)
    found = list(products(jax.make_jaxpr(step)(first, batch).jaxpr))
    # four or more in a layer of each scan, forward and twice backward
    assert len(found) >= 2 * 4 * 3
    assert set(found) == {("bfloat16", "bfloat16")}


def test_low_rank_factors_are_multiplied_in_bfloat16(problem):
    functions, _, batch, *_ = problem
    text = dataclasses.replace(functions.config.text, lora_rank=2)
    functions = Functional(dataclasses.replace(functions.config, text=text))

    def loss(params):
        model = functions.module(packed.lowered(params, "bfloat16"))
        return packed.loss(model, batch, packed.PackedConfig(tile=40))

    found = jax.make_jaxpr(jax.grad(loss))(functions.shapes())
    assert set(products(found.jaxpr)) == {("bfloat16", "bfloat16")}


def test_words_are_written_without_rounding_the_table_again_and_again(problem):
    functions, _, batch, mesh, first, placed = problem
    sample = grouped.make_sampler(
        functions, GrpoConfig(group=2), 4, (1,), mesh, placed.params
    )
    traced = jax.make_jaxpr(sample)(first.params, batch, jax.random.key(0))
    text = functions.config.text
    table = text.vocab_size * text.hidden_size
    loops = [e for e in equations(traced.jaxpr) if e.primitive.name == "while"]
    read = [v.aval for loop in loops for v in loop.invars if v.aval.size == table]
    assert read, "the loop that writes reads no table"
    assert {str(a.dtype) for a in read} == {"bfloat16"}
