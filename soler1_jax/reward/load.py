"""Finds the rewarder that a user names: a baseline, the shipped model, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params
from soler1_jax.reward import baselines
from soler1_jax.reward.vlm import VLMSettings, make_rewarder
from soler1_jax.tokenizers.sentencepiece import Tokenizer

if TYPE_CHECKING:
    from soler1_jax.reward.sole import SoleSettings

NANO = Path(__file__).parent / "weights" / "nano"
_BASELINES = {
    "oracle": baselines.oracle,
    "random": baselines.random,
    "time": baselines.time,
}
NAMES = (*_BASELINES, "nano")


def load_rewarder(
    spec: str | Path,
    settings: VLMSettings | None = None,
    released: SoleSettings | None = None,
    dtype: str | None = None,
) -> Rewarder:
    """Makes a rewarder.

    Args:
      spec: oracle, random, time, nano, a folder that holds a model of this project, or
        the folder of a released Qwen3-VL rewarder (as released, or converted).
      settings: how a model of this project is asked; others ignore it.
      released: how a released model is asked; others ignore it.
      dtype: of a released model's weights and activations; by default bfloat16, and
        float32 on a CPU.

    Raises:
      UserError: `spec` is none of them, a released model of another family, or its folder
        is missing or damaged.
    """
    spec = str(spec)
    if spec in _BASELINES:
        return _BASELINES[spec]()
    if is_released(Path(spec)):
        # Imported late: nano needs none of it.
        from soler1_jax.checkpoints.hf_config import from_hf, read_hf_json
        from soler1_jax.reward.pretrained import load_vlm
        from soler1_jax.reward.sole import make_sole_rewarder, require_qwen

        require_qwen(from_hf(read_hf_json(spec)), spec)
        on_cpu = jax.default_backend() == "cpu"
        dtype = dtype or ("float32" if on_cpu else "bfloat16")
        return make_sole_rewarder(load_vlm(spec, dtype), spec, released)
    return make_rewarder(*load_parts(spec), spec, settings)


def is_released(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in Hugging Face's form, or converted from it."""
    from soler1_jax.checkpoints.converted import is_converted

    return is_converted(folder) or any(folder.glob("*.safetensors"))


def load_parts(spec: str) -> tuple[ModelConfig, Params, Tokenizer]:
    """The configuration, weights and tokenizer of a rewarder that is a model.

    Args:
      spec: nano, or a folder that holds a model.

    Raises:
      UserError: `spec` is neither, or its folder is missing or damaged.
    """
    # Imported late: baselines need no checkpoint library.
    from soler1_jax.checkpoints.store import load_model

    folder = NANO if spec == "nano" else Path(spec)
    if not folder.is_dir():
        hint = nearest_hint(spec, NAMES)
        raise UserError(
            f"a rewarder is {', '.join(NAMES)} or the folder of a model; "
            f"got {spec!r}, which names no model{hint}"
        )
    return load_model(folder)
