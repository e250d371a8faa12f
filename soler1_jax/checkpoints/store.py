"""A model in a folder: configuration, vocabulary, weights, and where they came from.

    config.json      the ModelConfig
    tokenizer.model  SentencePiece
    weights.npz      one array a parameter, named by its path; float16 or float32
    metadata.json    format version, SHA-256 of the other files, and what the writer adds
                     (command, metrics, ...)

The folder is written beside and renamed, so it is there whole or not at all.
"""

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from soler1_jax.common.errors import UserError, disk_errors
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params
from soler1_jax.tokenizers.sentencepiece import Tokenizer

FORMAT = 1
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.model", "weights.npz"
METADATA = "metadata.json"


def save_model(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float16",
) -> None:
    """Writes a model, replacing one that is there.

    Args:
      folder: where.
      config: of the model.
      params: float32 parameters.
      tokenizer: of its words.
      metadata: anything JSON can hold.
      dtype: of the stored weights; float16 keeps 11 significant bits.

    Raises:
      UserError: a weight overflows float16, or the disk refuses.
    """
    files = {
        CONFIG: _json(config.to_json()),
        TOKENIZER: tokenizer.model,
        WEIGHTS: _pack(params, dtype),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[METADATA] = _json({**(metadata or {}), "format": FORMAT, "sha256": hashes})
    folder = Path(folder).absolute()
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    stale = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with disk_errors(folder):
        try:
            fresh.mkdir(parents=True)
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            if folder.exists():
                folder.rename(stale)
            fresh.rename(folder)
        finally:
            for path in (fresh, stale):
                shutil.rmtree(path, ignore_errors=True)


def load_model(folder: str | Path) -> tuple[ModelConfig, Params, Tokenizer]:
    """Reads a model.

    Returns:
      The configuration, float32 parameters on the default device, and the tokenizer.

    Raises:
      UserError: the folder is missing, incomplete or damaged, or its parts do not fit.
    """
    folder = Path(folder)
    metadata = load_metadata(folder)
    for name, digest in metadata["sha256"].items():
        if hashlib.sha256(_bytes(folder, name)).hexdigest() != digest:
            raise UserError(
                f"a model folder must be as it was written; {folder / name} has "
                "changed; copy the whole folder again"
            )
    config = ModelConfig.from_json(json.loads(_bytes(folder, CONFIG)))
    tokenizer = Tokenizer(folder / TOKENIZER)
    params = _unpack(_bytes(folder, WEIGHTS), Functional(config).shapes(), folder)
    return config, params, tokenizer


def load_metadata(folder: str | Path) -> dict[str, Any]:
    """Reads where a model came from; UserError if the folder holds no model."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"a model is a folder; {folder} is not there; check the path")
    try:
        metadata = json.loads(_bytes(folder, METADATA))
    except ValueError as error:
        raise UserError(
            f"{METADATA} must be JSON; the one in {folder} is not; copy the whole "
            "folder again"
        ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(
            f"this version reads model folders of format {FORMAT}; {folder} has "
            f"another; convert it or change the version"
        )
    return metadata


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise UserError(
            f"a model folder holds {CONFIG}, {TOKENIZER}, {WEIGHTS} and {METADATA}; "
            f"{path} is missing; copy the whole folder again"
        )
    return path.read_bytes()


def _pack(params: Params, dtype: str) -> bytes:
    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = np.asarray(jax.device_get(leaf), np.float32)
        if not np.all(np.abs(value) <= np.finfo(dtype).max):
            raise UserError(
                f"stored weights must be finite {dtype}; {name} is not; "
                "store float32 or train again"
            )
        arrays[name] = value.astype(dtype)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes, shapes: Params, folder: Path) -> Params:
    try:
        with np.load(io.BytesIO(data)) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be read; copy the whole folder again"
        ) from error

    def take(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = arrays.get(name)
        if value is None or value.shape != shape.shape:
            found = "missing" if value is None else f"of shape {value.shape}"
            raise UserError(
                f"weights must fit {CONFIG}; {name} should have shape {shape.shape} and "
                f"is {found} in {folder}; restore both from one folder"
            )
        return jax.numpy.asarray(value, np.float32)

    return jax.tree_util.tree_map_with_path(take, shapes)
