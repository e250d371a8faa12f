"""What answers questions about progress: pictures and words in, a thought and a number
out, token by token, as `reward/pretrained.py` runs it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import decode_flop, prefill_flop
from soler1_jax.model.functional import Functional, Params, parameter_count
from soler1_jax.model.patches import Patches, bucket
from soler1_jax.model.prompt import Prompt, make_prompt
from soler1_jax.planning.program import (
    Program,
    Sizes,
    by_row,
    placed,
    require_qwen,
    weights,
)
from soler1_jax.sampling.unconstrained import Written, write


def program(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> Program:
    """One batch of questions, weights in the model's dtype.

    Raises:
      UserError: the model is not of Qwen3-VL's shape, or the sizes do not fit it.
    """
    require_qwen(config, "reward")
    functions = Functional(config)
    shapes = weights(config)
    shardings = meshes.shardings(functions.logical_axes(), shapes, mesh)
    prompt, patches = _prompt(config, sizes)
    key = jax.eval_shape(lambda: jax.random.key(0))
    frames = np.full(sizes.batch * sizes.pictures, sizes.patches(config))
    flops = prefill_flop(config, sizes.batch, sizes.tokens, frames)
    flops += decode_flop(config, sizes.batch, sizes.tokens, sizes.new_tokens)
    answer = functools.partial(_answer, functions, mesh, sizes.new_tokens)
    return Program(
        function=jax.jit(answer),
        arguments=(
            placed(shapes, shardings),
            by_row(prompt, mesh),
            by_row(patches, mesh),
            placed(key, meshes.replicated(mesh)),
        ),
        parameters=parameter_count(shapes),
        tokens=sizes.batch * (sizes.tokens + sizes.new_tokens),
        model_flops=flops,
        flops=flops,
        # The first token comes from the prompt.
        unknown_trips={"": max(sizes.new_tokens - 1, 1)},
    )


def _answer(
    functions: Functional,
    mesh: Mesh,
    length: int,
    params: Params,
    prompt: Prompt,
    patches: Patches,
    key: jax.Array,
) -> Written:
    """Writes until a stop token; the last word stands for that of a checkpoint."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        model = functions.module(params)
        prefix = model.mix(prompt, model.encode_patches(patches))
        stop = functions.config.text.vocab_size - 1
        return write(model, prefix, key, length=length, stop_ids=(stop,))


def _prompt(config: ModelConfig, sizes: Sizes) -> tuple[Prompt, Patches]:
    """Shapes of a batch of prompts: one is laid out and repeated.

    Pixels are in the dtype of activations, as rewarders put them on a device.
    """
    patches = sizes.patches(config)
    shown = patches // config.vision.spatial_merge_size**2
    ids = np.zeros((1, sizes.tokens), np.int32)
    ids[0, : sizes.pictures * shown] = config.media.image
    side = sizes.picture_side // config.vision.patch_size
    one, frames = make_prompt(
        config,
        ids,
        pixel_values=np.zeros(
            (sizes.pictures * patches, config.vision.patch_values), np.float32
        ),
        image_grid_thw=np.tile([1, side, side], (sizes.pictures, 1)),
    )
    count = bucket(sizes.batch * sizes.pictures)
    prompt = jax.tree.map(
        lambda a: ShapeDtypeStruct((sizes.batch, *a.shape[1:]), a.dtype), one
    )
    found = jax.tree.map(
        lambda a: ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), frames
    )
    values = ShapeDtypeStruct(found.values.shape, jnp.dtype(config.dtype))
    return prompt, found._replace(values=values)
