"""The step of supervised training on packed rows, as `training/packed.py` makes it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import ShapeDtypeStruct
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.data.packing import PackedRows, RowShape, empty_rows
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import training_flop
from soler1_jax.model.functional import Functional, parameter_count
from soler1_jax.planning.program import Program, Sizes, placed
from soler1_jax.training import packed
from soler1_jax.training import state as states
from soler1_jax.training.counted_tokens import block_size
from soler1_jax.training.optimizer import (
    OptimizerConfig,
    in_float32,
    make_optimizer,
    schedule,
)
from soler1_jax.training.state import TrainState


def program(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> Program:
    """One step with AdamW: float32 parameters, activations in the model's dtype.

    Rows are taken to hold one record each, so that attention is counted at its most.

    Raises:
      UserError: the model cannot be trained on packed rows, or the sizes do not fit it.
    """
    packed.check_model(config)
    functions = Functional(config)
    optimizer, state, shardings = training_state(functions, mesh)
    cut = packed.PackedConfig(microbatches=sizes.microbatches)
    step = packed.make_step(functions, optimizer, cut, mesh, shardings)
    patches = sizes.patches(config)
    model_flops = training_flop(
        config,
        sizes.batch,
        sizes.tokens,
        np.full(sizes.batch * sizes.pictures, patches),
    )
    # With `remat` the backward pass begins with another forward pass, a third of both.
    again = config.text.remat and config.vision.remat
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * sizes.microbatches
    tokens = -(-sizes.batch // parts) * sizes.tokens
    return Program(
        function=step,
        arguments=(
            placed(state, shardings),
            placed(rows_of(config, sizes, patches), meshes.batch_sharding(mesh)),
        ),
        parameters=parameter_count(state.params),
        tokens=sizes.batch * sizes.tokens,
        model_flops=model_flops,
        flops=model_flops * (4 / 3 if again else 1),
        # All tokens of a chip are taken to count.
        unknown_trips={"": -(-tokens // block_size(tokens))},
    )


def training_state(
    functions: Functional, mesh: Mesh
) -> tuple[optax.GradientTransformation, TrainState, TrainState]:
    """AdamW, and the shapes and shardings of a state with float32 parameters."""
    logical = functions.logical_axes()
    settings = OptimizerConfig()
    optimizer = in_float32(make_optimizer(settings, schedule(settings, 1000), logical))
    state = jax.eval_shape(lambda p: states.create(p, optimizer, 0), functions.shapes())
    return optimizer, state, states.state_shardings(state, mesh, logical)


def rows_of(config: ModelConfig, sizes: Sizes, patches: int) -> PackedRows:
    """Shapes of a batch, its pixels in the dtype of activations."""
    shape = RowShape(
        rows=1, length=sizes.tokens, pictures=sizes.pictures, patches=patches
    )
    rows = jax.tree.map(
        lambda a: ShapeDtypeStruct((sizes.batch, *a.shape[1:]), a.dtype),
        empty_rows(config, shape),
    )
    values = ShapeDtypeStruct(rows.patches.values.shape, jnp.dtype(config.dtype))
    return rows._replace(patches=rows.patches._replace(values=values))
