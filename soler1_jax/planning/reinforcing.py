"""An iteration of learning from pixels with a released rewarder in the loop, as `soler1
rl --rewarder FOLDER` runs it: physics, pictures, questions and PPO's updates.

The mesh's data axis separates policies, fsdp the chips that share one policy's worlds.
Every chip holds the whole rewarder. Letters: R policies.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.sharding import Mesh

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.data.patches import PatchConfig
from soler1_jax.data.qwen_images import image_grid
from soler1_jax.envs import tabletop
from soler1_jax.envs.model import ITERATIONS
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import decode_flop, prefill_flop
from soler1_jax.model.functional import parameter_count
from soler1_jax.planning.program import Program, Sizes, placed, require_qwen, weights
from soler1_jax.reward import composite
from soler1_jax.reward.question import Question, make_questions
from soler1_jax.reward.sole import SoleSettings, make_sole_rewarder
from soler1_jax.rl import iteration
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.ppo import PPOConfig, make_ppo, quiet_worlds
from soler1_jax.rl.types import shapes_of

# First, previous and current frame, from two cameras.
PICTURES = 6


def program(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> Program:
    """One iteration: an episode in each of `batch` worlds, and what is learnt from it.

    Raises:
      UserError: the model is not of Qwen3-VL's shape, or the sizes do not fit it.
    """
    require_qwen(config, "rl")
    policies, chips = _check(mesh, sizes)
    episode = ChunkConfig()
    env = tabletop.make(episode_length=episode.steps, raycast="pallas_tpu")
    worlds = sizes.batch // policies
    settings = PPOConfig(
        worlds=worlds,
        quiet=quiet_worlds(worlds, chips),
        batch=worlds * PPOConfig.batch // PPOConfig.worlds,
    )
    agent = make_ppo(settings, shapes_of(env), episode.steps, chips)
    rewarder = _rewarder(config, sizes)
    question, patches = _questions(config, sizes, policies)
    devices = iteration.make_mesh(mesh.devices, agent)
    programs = iteration.make_programs(env, rewarder, agent, episode, devices)
    asked = sizes.batch * episode.queries
    flops = prefill_flop(config, asked, sizes.tokens, np.full(asked, patches))
    flops += decode_flop(config, asked, sizes.tokens, sizes.new_tokens)
    return Program(
        function=programs.iterate,
        arguments=_arguments(programs, rewarder, question, policies),
        parameters=parameter_count(rewarder.params["model"]),
        tokens=asked * (sizes.tokens + sizes.new_tokens),
        model_flops=flops,
        flops=flops,
        unknown_trips={
            # The first token comes from the prompt.
            "write": max(sizes.new_tokens - 1, 1),
            "solve": ITERATIONS,
            "epochs": settings.epochs,
        },
    )


def _check(mesh: Mesh, sizes: Sizes) -> tuple[int, int]:
    """Numbers of policies and of chips of each."""
    policies, chips, tensor = (mesh.shape[axis] for axis in ("data", "fsdp", "tensor"))
    if tensor > 1:
        raise UserError(
            "in --stage rl a chip holds the whole rewarder; got --mesh "
            f"{policies} {chips} {tensor}; make the last 1"
        )
    if sizes.microbatches > 1:
        raise UserError(
            "an iteration of --stage rl is one piece; got --microbatches "
            f"{sizes.microbatches}; leave it out"
        )
    shown = PICTURES, composite.TILE
    if (sizes.pictures, sizes.picture_side) != shown:
        raise UserError(
            "--stage rl shows first, previous and current frame of two cameras, "
            f"{PICTURES} pictures of {composite.TILE} pixels; got {sizes.pictures} of "
            f"{sizes.picture_side}; leave out --pictures and --picture-side"
        )
    return policies, chips


def _rewarder(config: ModelConfig, sizes: Sizes) -> Rewarder:
    """A released rewarder whose weights are shapes; it is never prepared or decoded."""
    # The last word stands for a checkpoint's stop token.
    described = types.SimpleNamespace(
        config=config,
        params=weights(config),
        stop_ids=(config.text.vocab_size - 1,),
        folder=None,
        wording=None,
        processor=types.SimpleNamespace(image=PatchConfig()),
        tokenizer=types.SimpleNamespace(special_ids={}, vocab_size=0),
    )
    return make_sole_rewarder(
        described, config.name, SoleSettings(budget=sizes.new_tokens)
    )


def _questions(
    config: ModelConfig, sizes: Sizes, policies: int
) -> tuple[Question, int]:
    """R questions of `tokens` places, and the number of patches of their picture."""
    views = composite.picture_size(PICTURES // 3, 3)
    grid = image_grid(*composite.stored_size(*views), PatchConfig())
    patches = int(np.prod(grid))
    shown = patches // config.vision.spatial_merge_size**2
    longest = len("-100")
    words = sizes.tokens - shown - longest
    if words < 1:
        raise UserError(
            f"words need room beside the picture; got {sizes.tokens} tokens of which it "
            f"takes {shown}; raise --tokens"
        )

    def encode(percent: int) -> list[list[int]]:
        number = [1 + ord(letter) for letter in str(percent)]
        return [[config.media.image] * shown + [0] * words + number] * policies

    return make_questions(config, encode, grid, 0), patches


def _arguments(
    programs: iteration.Programs,
    rewarder: Rewarder,
    question: Question,
    policies: int,
) -> tuple:
    place = programs.placement
    seeds = ShapeDtypeStruct((policies,), jnp.uint32, sharding=place.by_run)
    state = jax.eval_shape(programs.init, seeds)
    tasks = np.zeros(policies, np.int32)
    work = iteration.Assignment(tasks, question)
    mode = iteration.make_mode(1.0, learn=True)
    return (
        placed(state, place.by_device),
        placed(work, place.by_run),
        placed(rewarder.params, place.whole),
        placed(mode, place.whole),
    )
