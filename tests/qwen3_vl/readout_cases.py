"""Models with read-out heads, and where they are read, for us and for torch."""

import dataclasses
from pathlib import Path

import numpy as np
from qwen3_vl_cases import CASES

from soler1_jax.model.config import HeadsConfig, ModelConfig

GOLDEN = Path(__file__).parent / "readout_golden.npz"
HEADS = {
    "grouped": HeadsConfig(similarity=True),
    "tied": HeadsConfig(progress_bins=7, preference=False, pooling=False),
    "no-deepstack": HeadsConfig(progress_bins=1),
}
MARKER, ANSWER = 5, 7
"""Words of the prompts: where heads read, and whose likelihood is read."""


def with_heads(name: str, dtype: str = "float32") -> ModelConfig:
    """A case's configuration with its heads, and no head over words."""
    config = CASES[name].config(dtype)
    text = dataclasses.replace(config.text, tie_embeddings=True)
    return dataclasses.replace(config, text=text, heads=HEADS[name])


def marked(given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places of the markers in a batch."""
    there = (given["input_ids"] == MARKER) & (given["attention_mask"] > 0)
    return np.nonzero(there)


def last_places(given: dict[str, np.ndarray]) -> np.ndarray:
    """The place of the last word of each prompt."""
    mask = given["attention_mask"]
    return mask.shape[1] - 1 - np.argmax(mask[:, ::-1] > 0, axis=1)
