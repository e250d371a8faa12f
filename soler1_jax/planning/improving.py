"""The step of GRPO, as `training/grouped.py` makes it: completions are written to each
prompt, and the model learns from what they earned.

Rewards are computed between the two by whoever checks the texts; here they are an argument,
so that one program holds both halves and the memory that stays between them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError
from soler1_jax.data.packing import PackedRows
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import decode_flop, prefill_flop, training_flop
from soler1_jax.model.functional import Functional, parameter_count
from soler1_jax.planning.program import Program, Sizes, placed, require_qwen
from soler1_jax.planning.supervising import rows_of, training_state
from soler1_jax.training import grouped
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.state import TrainState


def program(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> Program:
    """One step with AdamW: float32 parameters, activations in the model's dtype.

    Raises:
      UserError: the model is not of Qwen3-VL's shape, or the sizes do not fit it.
    """
    require_qwen(config, "rlvr")
    if sizes.microbatches > 1:
        raise UserError(
            f"a step of GRPO is one piece; got --microbatches {sizes.microbatches}; give a "
            "smaller --batch"
        )
    functions = Functional(config)
    optimizer, state, shardings = training_state(functions, mesh)
    rule = GrpoConfig(group=sizes.group)
    # The last word stands for a checkpoint's stop token.
    stop = (config.text.vocab_size - 1,)
    sample = grouped.make_sampler(
        functions, rule, sizes.new_tokens, stop, mesh, shardings.params
    )
    update = grouped.make_update(functions, optimizer, rule, mesh, shardings)

    def step(
        state: TrainState, prompts: PackedRows, key: jax.Array, rewards: jax.Array
    ) -> tuple[TrainState, Any]:
        out = sample(state.params, prompts, key)
        return update(state, prompts, out._replace(rewards=rewards))

    rows, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    patches = sizes.patches(config)
    written, learnt = flops(config, sizes, patches)
    again = config.text.remat and config.vision.remat
    return Program(
        function=jax.jit(
            step,
            in_shardings=(shardings, rows, whole, rows),
            out_shardings=(shardings, whole),
            donate_argnums=0,
        ),
        arguments=(
            placed(state, shardings),
            placed(rows_of(config, sizes, patches), rows),
            placed(jax.eval_shape(lambda: jax.random.key(0)), whole),
            placed(ShapeDtypeStruct((sizes.batch, sizes.group), jnp.float32), rows),
        ),
        parameters=parameter_count(state.params),
        tokens=sizes.batch * (sizes.tokens + sizes.group * sizes.new_tokens),
        model_flops=written + learnt,
        flops=written + learnt * (4 / 3 if again else 1),
        # The first token comes from the prompt.
        unknown_trips={"": max(sizes.new_tokens - 1, 1)},
    )


def flops(config: ModelConfig, sizes: Sizes, patches: int) -> tuple[float, float]:
    """What writing and learning need: each prompt once, attention without the others'.

    As elsewhere, all pairs of what may be seen count, although causality hides half.
    """
    text, batch, prompt = config.text, sizes.batch, sizes.tokens
    group, new = sizes.group, sizes.new_tokens
    frames = np.full(batch * sizes.pictures, patches)
    written = prefill_flop(config, batch, prompt, frames)
    written += decode_flop(config, batch * group, prompt, new)
    whole = prompt + group * new
    seen = prompt**2 + group * new * (prompt + new)
    unseen = 4 * text.depth * text.num_heads * text.head_dim * (whole**2 - seen)
    unread = 2 * text.vocab_size * text.hidden_size * prompt
    learnt = training_flop(config, batch, whole, frames)
    return written, learnt - 3 * batch * (unseen + unread)
