"""Finds the rewarder that a user names: a baseline, the shipped model, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params
from soler1_jax.reward import baselines
from soler1_jax.reward.vlm import VLMSettings, make_rewarder
from soler1_jax.tokenizers.sentencepiece import Tokenizer

if TYPE_CHECKING:
    from soler1_jax.reward.likelihood import LikelihoodSettings
    from soler1_jax.reward.pretrained import PretrainedVLM
    from soler1_jax.reward.sole import SoleSettings
    from soler1_jax.reward.watching import WatchSettings

    ReleasedSettings = SoleSettings | LikelihoodSettings | WatchSettings

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
    released: ReleasedSettings | None = None,
    dtype: str | None = None,
) -> Rewarder:
    """Makes a rewarder.

    Args:
      spec: oracle, random, time, nano, a folder that holds a model of this project, or
        the folder of a released Qwen3-VL rewarder (as released, or converted).
      settings: how a model of this project is asked; others ignore it, but a released
        model refuses caution.
      released: how a released model is asked; others ignore it. With `SoleSettings` it
        writes its progress, with `LikelihoodSettings` that of an answer is read, and
        `WatchSettings` are for models with read-out heads. None for what the checkpoint
        is for: its heads if it has some, else what its words say.
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
        from soler1_jax.checkpoints.placement import activation_dtype
        from soler1_jax.reward.pretrained import load_vlm
        from soler1_jax.reward.sole import require_qwen

        require_qwen(from_hf(read_hf_json(spec)), spec)
        if settings is not None and settings.caution:
            raise UserError(
                "caution is for models of this project, whose value head says odds; "
                f"{spec} holds a released one; use --caution 0"
            )
        return _released(load_vlm(spec, activation_dtype(dtype)), spec, released)
    return make_rewarder(*load_parts(spec), spec, settings)


def _released(
    vlm: PretrainedVLM, name: str, settings: ReleasedSettings | None
) -> Rewarder:
    """Asks a released model in the way that settings or checkpoint name."""
    from soler1_jax.reward.likelihood import (
        LikelihoodSettings,
        make_likelihood_rewarder,
    )
    from soler1_jax.reward.robometer import make_robometer
    from soler1_jax.reward.sole import make_sole_rewarder
    from soler1_jax.reward.watching import WatchSettings
    from soler1_jax.tokenizers.readout_wording import ReadoutWording

    words = vlm.wording
    reads = isinstance(words, ReadoutWording) and words.readout == "likelihood"
    if isinstance(settings, LikelihoodSettings) or (settings is None and reads):
        return make_likelihood_rewarder(vlm, name, settings)
    has_heads = vlm.config.heads is not None
    if isinstance(settings, WatchSettings) or (settings is None and has_heads):
        return make_robometer(vlm, name, settings)
    return make_sole_rewarder(vlm, name, settings)


def is_released(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in Hugging Face's form, or converted from it."""
    from soler1_jax.checkpoints.converted import is_converted

    return is_converted(folder) or any(folder.glob("*.safetensors"))


def has_heads(folder: Path) -> bool:
    """Whether a released checkpoint, as released or converted, has read-out heads."""
    from soler1_jax.checkpoints.converted import is_converted, read_about
    from soler1_jax.checkpoints.hf_weights import read_config

    if is_converted(folder):
        return read_about(folder).heads is not None
    return read_config(folder).heads is not None


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
