"""The files around a model's weights: configuration, tokenizer, processor, words."""

import shutil
from pathlib import Path
from typing import Any

from soler1_jax.checkpoints.converted import ABOUT
from soler1_jax.checkpoints.hf_config import CONFIG, read_hf_json
from soler1_jax.common.run import write_json
from soler1_jax.tokenizers.wording import (
    WORDING,
    AnyWording,
    read_wording,
    wording_bytes,
)

# Not copied along: weights of any kind, and what is written anew.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
_INDEX = ".index.json"
_OWN = (ABOUT, WORDING, CONFIG)
_DTYPE_FIELDS = ("dtype", "torch_dtype")


def companions(source: Path) -> list[Path]:
    """Files of tokenizer, processor, template and licence, to be copied as they are."""
    return sorted(
        path
        for path in source.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith((*_WEIGHTS, _INDEX))
        and path.name not in _OWN
    )


def stored_wording(source: Path, given: AnyWording | None = None) -> AnyWording | None:
    """The words that are given, or else those of a folder, or else None.

    Raises:
      UserError: the folder's are not as they should be.
    """
    if given is not None or not (source / WORDING).is_file():
        return given
    return read_wording(source / WORDING)


def write_companions(
    source: Path, folder: Path, dtype: str | None, wording: AnyWording | None
) -> None:
    """Writes everything but the weights.

    Args:
      source: folder of a model.
      folder: where.
      dtype: that the configuration is to state wherever it states one; None for what it
        says.
      wording: how a rewarder is asked; None for no such file.
    """
    for path in companions(source):
        shutil.copyfile(path, folder / path.name)
    if dtype is None:
        shutil.copyfile(source / CONFIG, folder / CONFIG)
    else:
        write_json(folder / CONFIG, _with_dtype(read_hf_json(source), dtype))
    if wording is not None:
        (folder / WORDING).write_bytes(wording_bytes(wording))


def _with_dtype(data: Any, dtype: str) -> Any:
    if not isinstance(data, dict):
        return data
    return {
        key: dtype if key in _DTYPE_FIELDS and value else _with_dtype(value, dtype)
        for key, value in data.items()
    }
