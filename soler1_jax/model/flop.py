"""Multiplications and additions of matrix products, counted from a configuration.

They are what a model needs, not what a program does: what is computed again in a backward
pass, or twice on two devices, does not count.

Letters: B prompts, T tokens of a prompt, P patches of all pictures, S new tokens.
"""

import jax
import numpy as np

from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional


def prefill_flop(
    config: ModelConfig, batch: int, prompt: int, frames: np.ndarray
) -> float:
    """Count the multiplications and additions of matrix products up to the first token.

    Args:
      config: of a model with the linear stem.
      batch: B.
      prompt: T, padding not counted.
      frames: int [N], patches of each picture.

    Returns:
      FLOP. Attention counts all pairs, as usual for utilisation, although half of the
      decoder's are masked.
    """
    vision, text = config.vision, config.text
    patches = int(np.sum(frames))
    rows = {"patches": patches, "tokens": batch * prompt, "prompts": batch}
    rows["merged"] = patches // vision.spatial_merge_size**2
    flop = 0.0
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    for path, leaf in leaves:
        names = [key.key for key in path]
        if names[-1] == "kernel":
            flop += 2 * leaf.size * rows[_fed_by(names)]
    if text.tie_embeddings:
        flop += 2 * batch * text.vocab_size * text.hidden_size
    pairs = int(np.sum(np.asarray(frames, np.int64) ** 2))
    flop += 4 * vision.depth * vision.hidden_size * pairs
    wide = text.num_heads * text.head_dim
    return flop + 4 * text.depth * wide * batch * prompt**2


def training_flop(
    config: ModelConfig,
    records: int,
    length: int,
    frames: np.ndarray,
    read: int | None = None,
) -> float:
    """Count the multiplications and additions of matrix products of a training step.

    Args:
      config: of a model with the linear stem.
      records: that do not see each other.
      length: tokens of a record, padding not counted.
      frames: int [N], patches of each picture.
      read: tokens of all records that predict one that counts; None for all.

    Returns:
      FLOP: three times those of the forward pass. What is computed again in the backward
      pass does not count.
    """
    words = config.text.vocab_size * config.text.hidden_size
    # One a record is in the prefill.
    others = (records * length if read is None else read) - records
    whole = prefill_flop(config, records, length, frames) + 2 * others * words
    return 3 * whole


def decode_flop(config: ModelConfig, batch: int, prompt: int, new: int) -> float:
    """Count those of writing tokens behind a prompt, one by one.

    Args:
      config: of the model.
      batch: B.
      prompt: T.
      new: S; the first follows from the prompt and is not counted here.

    Returns:
      FLOP, over all places that are filled when a token is written.
    """
    text = config.text
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    weights = text.vocab_size * text.hidden_size
    for path, leaf in leaves:
        names = [key.key for key in path]
        if names[0] == "language_model" and names[-1] == "kernel":
            weights += leaf.size
    steps = new - 1
    places = steps * prompt + steps * (steps + 1) // 2
    wide = text.num_heads * text.head_dim
    return 2.0 * batch * weights * steps + 4.0 * text.depth * wide * batch * places


def _fed_by(names: list[str]) -> str:
    """What a kernel is multiplied with."""
    if names[0] == "visual":
        return "merged" if "merger" in names[1] else "patches"
    return "tokens" if names[0] == "language_model" else "prompts"
