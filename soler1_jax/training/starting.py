"""What the tuning of a released model starts from, as the user names it."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import jax
from jax.sharding import Mesh

from soler1_jax.checkpoints.placement import activation_dtype
from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data.row_room import RowShape
from soler1_jax.data.source import open_source
from soler1_jax.model.config import ModelConfig
from soler1_jax.reward.load import is_released
from soler1_jax.reward.pretrained import PretrainedVLM, load_vlm
from soler1_jax.reward.sole import DEFAULT_WORDING, require_qwen
from soler1_jax.tokenizers.wording import WORDING, Wording
from soler1_jax.training import materials
from soler1_jax.training.adapters import Trained
from soler1_jax.training.conversations import Asking, Chats, Recorded
from soler1_jax.training.examples import Examples
from soler1_jax.training.optimizer import OptimizerConfig
from soler1_jax.training.packed import check_model
from soler1_jax.training.tuning import Learner

# as TPU kernels cut sequences
_BLOCK = 128


def make_mesh(shape: str | None) -> Mesh:
    """A mesh from "data,fsdp,tensor", or all devices on `fsdp`: large models need it."""
    if shape:
        return materials.make_mesh(shape)
    return meshes.make_mesh((1, len(jax.devices()), 1))


def load_qwen(
    folder: Path, mesh: Mesh, dtype: str | None, remat: bool, lora_rank: int
) -> PretrainedVLM:
    """Loads a released model to be trained.

    Args:
      folder: of the checkpoint.
      mesh: over which its weights are spread.
      dtype: of activations; None for float32 on a CPU and bfloat16 elsewhere.
      remat: whether layers are computed again in the backward pass.
      lora_rank: with factors, weights are loaded in the dtype of activations.

    Raises:
      UserError: the folder holds no Qwen3-VL, or one that writes nothing.
    """
    if not folder.is_dir() or not is_released(folder):
        raise UserError(
            f"a released model is a folder with safetensors or a converted one; {folder} "
            "is neither; for our own models there are `soler1 sft` and `soler1 rlvr`"
        )
    dtype = activation_dtype(dtype)
    vlm = load_vlm(folder, dtype if lora_rank else "float32", mesh)
    require_qwen(vlm.config, str(folder))
    check_model(vlm.config)
    if vlm.config.heads is not None:
        raise UserError(
            f"a model with read-out heads writes no text; {folder} has them; give a "
            "checkpoint without"
        )
    vision = dataclasses.replace(vlm.config.vision, remat=remat)
    text = dataclasses.replace(vlm.config.text, remat=remat)
    vlm.config = dataclasses.replace(vlm.config, vision=vision, text=text, dtype=dtype)
    return vlm


def asking(vlm: PretrainedVLM, views: str, from_zero: bool) -> Asking:
    """How the model is asked: in the words stored beside it, or in ours.

    Raises:
      UserError: its words ask for no answer in words, or not for these views.
    """
    wording = vlm.wording or DEFAULT_WORDING
    if not isinstance(wording, Wording):
        raise UserError(
            f"a model learns answers in words; the {WORDING} of {vlm.folder} asks for "
            f"{wording.readout}; give it other words"
        )
    return Asking(wording=wording, views=views, from_zero=from_zero)


def examples(
    vlm: PretrainedVLM, asking: Asking, data: Sequence[Path], chats: Sequence[Path] = ()
) -> Examples:
    """Everything that is learnt from.

    Args:
      vlm: the model.
      asking: how records are put into words.
      data: data sets of `soler1 synth`.
      chats: files of conversations.

    Raises:
      UserError: there is none, or one cannot be read.
    """
    if not data and not chats:
        raise UserError(
            "training needs data; got none; give --data a folder of `soler1 synth`, or "
            "--chats a file of conversations"
        )
    sources = [open_source(folder) for folder in data]
    parts = [Recorded(s, asking) for s in sources]
    return Examples(vlm, [*parts, *(Chats(path) for path in chats)])


def questions(vlm: PretrainedVLM, asking: Asking, data: Sequence[Path]) -> Examples:
    """The progress queries of data sets as prompts without replies.

    Raises:
      UserError: there is none, or one cannot be read.
    """
    sources = [open_source(folder) for folder in data]
    parts = [Recorded(s, asking, ("progress",)) for s in sources]
    return Examples(vlm, parts, replies=False)


def question_shape(rows: int, *questions: Examples | None) -> RowShape:
    """The shape of batches with one question a row: as large as the largest of them."""
    require_positive("--prompts", rows)
    sizes = [s for part in questions if part is not None for s in part.sizes]
    length = max(size.tokens for size in sizes)
    return RowShape(
        rows=rows,
        length=_up(length),
        pictures=1,
        patches=max(sum(size.patches) for size in sizes),
    )


class Tuned(Protocol):
    """What both commands are told of the parameters."""

    steps: int
    seed: int
    lora_rank: int
    lora_alpha: float
    train_encoder: bool


def learner(
    vlm: PretrainedVLM, args: Tuned, settings: OptimizerConfig, mesh: Mesh
) -> Learner:
    """The model, prepared for training; its loaded parameters are used up."""
    trained = Trained(
        lora_rank=args.lora_rank,
        lora_alpha=args.lora_alpha,
        encoder=args.train_encoder,
    )
    return Learner(vlm, trained, settings, args.steps, args.seed, mesh)


def row_shape(
    config: ModelConfig, rows: int, tokens: int, examples: Examples
) -> RowShape:
    """The shape of batches: as many patches as a row full of pictures could have.

    Args:
      config: of the model.
      rows: of a batch.
      tokens: of a row.
      examples: whose pictures' share of the tokens decides.
    """
    merged = config.vision.spatial_merge_size**2
    shares = [sum(s.patches) / merged / s.tokens for s in examples.sizes]
    patches = math.ceil(tokens * max(shares)) * merged
    return RowShape(
        rows=rows,
        length=tokens,
        pictures=1,
        patches=max(_up(patches), _BLOCK),
        shared=True,
    )


def _up(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK
