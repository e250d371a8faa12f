"""Finds the rewarder that a user names: a baseline, the shipped model, or a folder."""

from pathlib import Path

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params
from soler1_jax.reward import baselines
from soler1_jax.reward.vlm import VLMSettings, make_rewarder
from soler1_jax.tokenizers.sentencepiece import Tokenizer

NANO = Path(__file__).parent / "weights" / "nano"
_BASELINES = {
    "oracle": baselines.oracle,
    "random": baselines.random,
    "time": baselines.time,
}
NAMES = (*_BASELINES, "nano")


def load_rewarder(spec: str, settings: VLMSettings | None = None) -> Rewarder:
    """Makes a rewarder.

    Args:
      spec: oracle, random, time, nano, or a folder that holds a model.
      settings: how a model is asked; baselines ignore it.

    Raises:
      UserError: `spec` is none of them, or its folder is missing or damaged.
    """
    if spec in _BASELINES:
        return _BASELINES[spec]()
    return make_rewarder(*load_parts(spec), spec, settings)


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
