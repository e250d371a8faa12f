"""Weights of a Qwen3-VL checkpoint in memory: from safetensors files and back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.hf_config import from_hf, read_hf_json
from soler1_jax.checkpoints.hf_names import Tensor, tensors
from soler1_jax.checkpoints.placement import placed, require_dtype
from soler1_jax.checkpoints.safetensors_files import (
    DTYPES,
    StoredTensor,
    locate_tensors,
)
from soler1_jax.checkpoints.transpose import contiguous
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params

_COMPARED = 4096  # rows of a tied model's embeddings at a time


def load_hf(
    folder: str | Path, dtype: str = "bfloat16", mesh: Mesh | None = None
) -> tuple[ModelConfig, Params]:
    """Reads a checkpoint as transformers' `save_pretrained` writes it.

    Args:
      folder: with config.json and safetensors files.
      dtype: of the parameters and of the activations, float32 or bfloat16.
      mesh: to spread the parameters over; None for the default device.

    Returns:
      The configuration, and parameters on their devices.

    Raises:
      UserError: the folder is missing, incomplete or damaged, or not a Qwen3-VL.
    """
    require_dtype(dtype)
    folder = Path(folder)
    config = from_hf(read_hf_json(folder), name=folder.resolve().name, dtype=dtype)
    stored = checked_tensors(folder, config)
    loader = Loader(config, dtype)
    for tensor in tensors(config):
        loader.put(tensor, stored[tensor.name].read())
    return config, loader.params(mesh)


def checked_tensors(folder: Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """Lists the tensors of a checkpoint after comparing them with its configuration.

    Returns:
      Name -> tensor, with all of `hf_names.tensors(config)`; with `hf_names.HEAD` too if
      a tied model stores its embeddings twice.

    Raises:
      UserError: a file or tensor is missing, damaged, left over, of another shape, or not
        of floating point numbers with 16 bits or more.
    """
    stored = locate_tensors(folder)
    wanted = tensors(config)
    _check_names(config, wanted, stored, folder)
    for tensor in wanted:
        _check_tensor(tensor.name, tensor.shape, stored[tensor.name])
    if config.text.tie_embeddings and hf_names.HEAD in stored:
        table, head = stored[hf_names.EMBEDDINGS], stored[hf_names.HEAD]
        _check_tensor(hf_names.HEAD, table.shape, head)
        _check_tied(table, head)
    return stored


class Loader:
    """Collects stored tensors into a tree of parameters."""

    def __init__(self, config: ModelConfig, dtype: str) -> None:
        """Expects `tensors(config)`; parameters get `dtype`."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        self.layers: dict[hf_names.Path, int] = {}
        for tensor in tensors(config):
            if tensor.layer is not None:
                self.layers[tensor.path] = tensor.layer + 1
        self.arrays: dict[hf_names.Path, np.ndarray] = {}

    def put(self, tensor: Tensor, stored: np.ndarray) -> None:
        """Adds one tensor, of the shape that the model has."""
        ours = contiguous(tensor.to_ours(stored.astype(self.dtype, copy=False)))
        if tensor.layer is None:
            self.arrays[tensor.path] = ours
            return
        if tensor.path not in self.arrays:
            shape = (self.layers[tensor.path], *ours.shape)
            self.arrays[tensor.path] = np.empty(shape, self.dtype)
        self.arrays[tensor.path][tensor.layer] = ours

    def params(self, mesh: Mesh | None = None) -> Params:
        """Hands the parameters over to their devices, see `placed`, and forgets them."""

        def put(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
            value = self.arrays.pop(tuple(key.key for key in path))
            return jax.device_put(value, like.sharding)

        target = placed(self.config, str(self.dtype), mesh)
        return jax.tree_util.tree_map_with_path(put, target)


def to_stored(config: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a checkpoint one by one, in the parameters' dtype."""
    for tensor in tensors(config):
        node: Any = params
        for key in tensor.path:
            node = node[key]
        node = node if tensor.layer is None else node[tensor.layer]
        yield tensor.name, contiguous(tensor.to_stored(np.asarray(node)))


def _check_names(
    config: ModelConfig,
    wanted: tuple[Tensor, ...],
    files: Mapping[str, StoredTensor],
    folder: Path,
) -> None:
    names = {tensor.name for tensor in wanted}
    missing = [tensor.name for tensor in wanted if tensor.name not in files]
    allowed = {hf_names.HEAD} if config.text.tie_embeddings else set()
    extra = sorted(set(files) - names - allowed)
    if missing:
        instead = f", but has {extra[0]}{_more(extra)}" if extra else ""
        raise UserError(
            f"a checkpoint must hold every tensor of its model; {folder} lacks "
            f"{missing[0]}{_more(missing)}{instead}; copy the whole folder again"
        )
    if extra:
        raise UserError(
            f"a Qwen3-VL checkpoint holds nothing else; {folder} has {extra[0]}"
            f"{_more(extra)}; remove them, or load the model they belong to"
        )


def _check_tensor(name: str, shape: tuple[int, ...], stored: StoredTensor) -> None:
    if stored.shape != shape:
        raise UserError(
            f"weights must fit config.json; {name} should have shape "
            f"{list(shape)} and has {list(stored.shape)}; restore both from "
            "one checkpoint"
        )
    if stored.kind not in DTYPES:
        raise UserError(
            f"weights are stored as {', '.join(DTYPES)}; {name} is {stored.kind}; "
            "use a checkpoint that is not quantised"
        )


def _check_tied(table: StoredTensor, head: StoredTensor) -> None:
    """A tied model's stored head must be the copy that it is taken for."""
    rows = table.shape[0]
    for low in range(0, rows, _COMPARED):
        part = low, min(low + _COMPARED, rows)
        if not np.array_equal(table.read(*part), head.read(*part)):
            raise UserError(
                f"tie_word_embeddings says that {hf_names.HEAD} is "
                f"{hf_names.EMBEDDINGS}; the stored ones differ; set it to false in "
                "config.json"
            )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
