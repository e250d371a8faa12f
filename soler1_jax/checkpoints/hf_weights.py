"""Weights of a released checkpoint in memory: from safetensors files and back."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.hf_config import family_of, from_hf, read_hf_json
from soler1_jax.checkpoints.hf_heads import find_heads, with_heads
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
from soler1_jax.model.functional import Functional, Params

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
      UserError: the folder is missing, incomplete or damaged, or of no family we know.
    """
    require_dtype(dtype)
    folder = Path(folder)
    config = read_config(folder, dtype)
    stored = checked_tensors(folder, config)
    loader = Loader(config, dtype)
    for tensor in tensors(config):
        loader.put(tensor, stored[tensor.name].read())
    return config, loader.params(mesh)


def read_config(folder: Path, dtype: str = "bfloat16") -> ModelConfig:
    """Reads a checkpoint's configuration, with the read-out heads that it stores.

    Raises:
      UserError: a file is missing or damaged, or the model is of no family we know.
    """
    data, name = read_hf_json(folder), folder.resolve().name
    family = family_of(from_hf(data))
    shapes = {
        family.canonical(tensor.name): tensor.shape
        for tensor in locate_tensors(folder).values()
    }
    return with_heads(
        data,
        find_heads(shapes),
        word_head=family.HEAD in shapes,
        name=name,
        dtype=dtype,
    )


def checked_tensors(folder: Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """Lists the tensors of a checkpoint after comparing them with its configuration.

    Returns:
      Name -> tensor, with all of `hf_names.tensors(config)`; with the family's `HEAD` too
      if a tied model stores its embeddings twice. Whatever a writer calls a tensor, its
      name here is the released one.

    Raises:
      UserError: a file or tensor is missing, damaged, left over, there twice, of another
        shape, or not of floating point numbers with 16 bits or more.
    """
    family = family_of(config)
    stored: dict[str, StoredTensor] = {}
    for tensor in locate_tensors(folder).values():
        other = stored.setdefault(family.canonical(tensor.name), tensor)
        if other is not tensor:
            raise UserError(
                f"a checkpoint holds each tensor once; {folder} has {other.name}, which "
                f"is also {tensor.name}; remove one of them"
            )
    wanted = tensors(config)
    _check_names(config, wanted, stored, folder)
    for tensor in wanted:
        _check_tensor(tensor.shape, stored[tensor.name])
    if config.text.tie_embeddings and family.HEAD in stored:
        table, head = stored[family.EMBEDDINGS], stored[family.HEAD]
        _check_tensor(table.shape, head)
        _check_tied(table, head)
    return stored


class Loader:
    """Collects stored tensors into a tree of parameters."""

    def __init__(self, config: ModelConfig, dtype: str) -> None:
        """Expects `tensors(config)`; parameters get `dtype`."""
        self.config, self.dtype = config, jnp.dtype(dtype)
        leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
        self.shapes = {tuple(k.key for k in path): leaf.shape for path, leaf in leaves}
        self.arrays: dict[hf_names.Path, np.ndarray] = {}

    def put(self, tensor: Tensor, stored: np.ndarray) -> None:
        """Adds one tensor, of the shape that the model has."""
        ours = contiguous(tensor.to_ours(stored.astype(self.dtype, copy=False)))
        if tensor.layer is None and tensor.offset is None:
            self.arrays[tensor.path] = ours
            return
        if tensor.path not in self.arrays:
            self.arrays[tensor.path] = np.empty(self.shapes[tensor.path], self.dtype)
        tensor.slot(self.arrays[tensor.path])[...] = ours

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
        ours = np.asarray(tensor.slot(node))
        yield tensor.name, contiguous(tensor.to_stored(ours))


def _check_names(
    config: ModelConfig,
    wanted: tuple[Tensor, ...],
    found: Collection[str],
    folder: Path,
) -> None:
    names = {tensor.name for tensor in wanted}
    missing = [tensor.name for tensor in wanted if tensor.name not in found]
    allowed = {family_of(config).HEAD} if config.text.tie_embeddings else set()
    extra = sorted(set(found) - names - allowed)
    if missing:
        instead = f", but has {extra[0]}{_more(extra)}" if extra else ""
        raise UserError(
            f"a checkpoint must hold every tensor of its model; {folder} lacks "
            f"{missing[0]}{_more(missing)}{instead}; copy the whole folder again"
        )
    if extra:
        raise UserError(
            f"a checkpoint holds its model's tensors only; {folder} has {extra[0]}"
            f"{_more(extra)}; remove them, or load the model they belong to"
        )


def _check_tensor(shape: tuple[int, ...], stored: StoredTensor) -> None:
    if stored.shape != shape:
        raise UserError(
            f"weights must fit config.json; {stored.name} should have shape "
            f"{list(shape)} and has {list(stored.shape)}; restore both from "
            "one checkpoint"
        )
    if stored.kind not in DTYPES:
        raise UserError(
            f"weights are stored as {', '.join(DTYPES)}; {stored.name} is "
            f"{stored.kind}; "
            "use a checkpoint that is not quantised"
        )


def _check_tied(table: StoredTensor, head: StoredTensor) -> None:
    """A tied model's stored head must be the copy that it is taken for."""
    rows = table.shape[0]
    for low in range(0, rows, _COMPARED):
        part = low, min(low + _COMPARED, rows)
        if not np.array_equal(table.read(*part), head.read(*part)):
            raise UserError(
                f"tie_word_embeddings says that {head.name} is {table.name}; the "
                "stored ones differ; set it to false in config.json"
            )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
