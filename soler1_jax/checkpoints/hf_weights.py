"""Weights of a released checkpoint in memory: from safetensors files and back.

A checkpoint is one `model.safetensors`, or several files with an index that says which
tensor is where.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from soler1_jax.checkpoints import hf_names
from soler1_jax.checkpoints.hf_config import family_of, from_hf, read_hf_json
from soler1_jax.checkpoints.hf_names import Tensor, tensors
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16")


def load_hf(folder: str | Path, dtype: str = "bfloat16") -> tuple[ModelConfig, Params]:
    """Reads a checkpoint as transformers' `save_pretrained` writes it.

    Args:
      folder: with config.json and safetensors files.
      dtype: of the parameters and of the activations, float32 or bfloat16.

    Returns:
      The configuration, and parameters on the default device.

    Raises:
      UserError: the folder is missing, incomplete or damaged, or of no family we know.
    """
    if dtype not in DTYPES:
        raise UserError(
            f"weights are loaded as {' or '.join(DTYPES)}; got {dtype!r}; choose one"
        )
    folder = Path(folder)
    config = from_hf(read_hf_json(folder), name=folder.resolve().name, dtype=dtype)
    files, family = locate_tensors(folder), family_of(config)
    wanted = tensors(config)
    # Writers differ in how they call a tensor; from here on it has one name.
    stored_as = {family.canonical(name): name for name in files}
    _check_names(config, wanted, stored_as, folder)
    loader = Loader(config, dtype)
    by_name = {stored_as[tensor.name]: tensor for tensor in wanted}
    for path in sorted(set(files.values())):
        with open_safetensors(path) as stored:
            names = [n for n in stored.keys() if files.get(n) == path]  # noqa: SIM118
            for name in names:
                if name in by_name:
                    loader.put(by_name[name], stored.get_tensor(name))
    if config.text.tie_embeddings and family.HEAD in stored_as:
        pair = [stored_as[name] for name in (family.EMBEDDINGS, family.HEAD)]
        _check_tied(files, pair)
    return config, loader.params()


def locate_tensors(folder: Path) -> dict[str, Path]:
    """Says which file holds each tensor.

    Raises:
      UserError: there are no safetensors files, or one of them is missing or damaged.
    """
    if (folder / INDEX).is_file():
        try:
            places = json.loads((folder / INDEX).read_text())["weight_map"]
            files = {str(name): folder / file for name, file in places.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / INDEX} must be an index of safetensors files and is not; "
                "copy it again"
            ) from error
        for path in sorted(set(files.values())):
            with open_safetensors(path) as stored:
                held = set(stored.keys())
            for name, place in files.items():
                if place == path and name not in held:
                    raise UserError(
                        f"{INDEX} says that {path} holds {name}; it does not; copy the "
                        "whole folder again"
                    )
        return files
    path = folder / SINGLE
    if not path.is_file():
        raise UserError(
            f"a Hugging Face checkpoint holds {SINGLE} or {INDEX}; {folder} has neither; "
            "check the path, or save it as safetensors"
        )
    with open_safetensors(path) as stored:
        return dict.fromkeys(stored.keys(), path)


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Opens a file for `get_tensor`; UserError if it is missing or damaged."""
    try:
        opened = safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); copy it again"
        ) from error
    with opened as stored:
        yield stored


class Loader:
    """Collects stored tensors into a tree of parameters."""

    def __init__(self, config: ModelConfig, dtype: str) -> None:
        """Expects `tensors(config)`; parameters get `dtype`."""
        self.dtype = jnp.dtype(dtype)
        leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
        self.shapes = {tuple(k.key for k in path): leaf.shape for path, leaf in leaves}
        self.arrays: dict[hf_names.Path, np.ndarray] = {}

    def put(self, tensor: Tensor, stored: np.ndarray) -> None:
        """Adds one tensor; UserError if its shape or kind is not what the model has."""
        if stored.shape != tensor.shape:
            raise UserError(
                f"weights must fit config.json; {tensor.name} should have shape "
                f"{list(tensor.shape)} and has {list(stored.shape)}; restore both from "
                "one checkpoint"
            )
        if stored.dtype.itemsize < 2 or not jnp.issubdtype(stored.dtype, jnp.floating):
            raise UserError(
                f"weights are stored with 16 bits or more; {tensor.name} is "
                f"{stored.dtype}; use a checkpoint that is not quantised"
            )
        ours = tensor.to_ours(stored)
        if tensor.layer is None and tensor.offset is None:
            self.arrays[tensor.path] = np.ascontiguousarray(ours, self.dtype)
            return
        if tensor.path not in self.arrays:
            self.arrays[tensor.path] = np.empty(self.shapes[tensor.path], self.dtype)
        tensor.slot(self.arrays[tensor.path])[...] = ours

    def params(self) -> Params:
        """Hands the parameters over to the default device and forgets them."""
        tree: Params = {}
        while self.arrays:
            path, value = self.arrays.popitem()
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = jnp.asarray(value)
        return tree


def to_stored(config: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a checkpoint one by one, in the parameters' dtype."""
    for tensor in tensors(config):
        node: Any = params
        for key in tensor.path:
            node = node[key]
        ours = np.asarray(tensor.slot(node))
        yield tensor.name, np.ascontiguousarray(tensor.to_stored(ours))


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


def _check_tied(files: Mapping[str, Path], pair: Sequence[str]) -> None:
    """A tied model's stored head must be the copy that it is taken for."""
    values = []
    for name in pair:
        with open_safetensors(files[name]) as stored:
            values.append(stored.get_tensor(name))
    if not np.array_equal(*values):
        raise UserError(
            f"tie_word_embeddings says that {pair[1]} is {pair[0]}; "
            "the stored ones differ; set it to false in config.json"
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
