"""A Hugging Face `config.json` as a ModelConfig, and back, for the families we know.

The file says more than we model (dropout, initialisation, generation defaults) and could
ask for what we do not have (other activations, scaled positions). What would change the
outputs is checked; what would not is left alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from soler1_jax.checkpoints import hf_fields, hf_paligemma, hf_qwen3_vl
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig

CONFIG = hf_fields.CONFIG
_FAMILIES = {f.MODEL_TYPE: f for f in (hf_paligemma, hf_qwen3_vl)}


def read_hf_json(folder: str | Path, name: str = CONFIG) -> dict[str, Any]:
    """Reads a JSON file; UserError if it is missing or holds no object."""
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(
            f"a Hugging Face checkpoint is a folder with {CONFIG}; {path} is not there; "
            "check the path"
        )
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} must be JSON and is not; copy it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object; copy it again")
    return data


def from_hf(
    data: Mapping[str, Any],
    *,
    name: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> ModelConfig:
    """Turns the contents of `config.json` into a ModelConfig.

    Args:
      data: as transformers 4.57 or 5 writes it.
      name: what to call the model; by default after its family.
      dtype: of activations; what the file says is not used.

    Raises:
      UserError: a field is missing, or has a value that this model does not implement.
    """
    hf_fields.require("model_type", data.get("model_type"), *_FAMILIES)
    hf_fields.require("quantization_config", data.get("quantization_config"), None)
    family = _FAMILIES[data["model_type"]]
    return family.from_hf(data, name=name or family.NAME, dtype=dtype)


def to_hf(config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Inverse of `from_hf`, in the form of the released files.

    Args:
      config: of a model of one of the families.
      base: a `config.json` whose other fields (end tokens, generation defaults, ...) are
        kept.

    Raises:
      UserError: the model has parts that no family has.
    """
    return family_of(config).to_hf(config, base)


def family_of(config: ModelConfig) -> ModuleType:
    """Returns the module that knows a model's files: hf_qwen3_vl or hf_paligemma.

    Raises:
      UserError: the model has parts that no family has.
    """
    family = hf_paligemma if config.vision.merger == "linear" else hf_qwen3_vl
    family.check_parts(config)
    return family
