"""Which tensor of a Qwen3-VL checkpoint is which of our parameters.

Derived from the tree of parameters itself, so the list is complete by construction. A
scanned stack holds one parameter for all its layers; the checkpoint has one tensor for
each. Linear maps are stored [out, in] there and [in, out] here; the patch embedding is a
3-D convolution there and a matrix here.

Source of the names: the index files of the released Qwen3-VL checkpoints.
"""

import dataclasses
import enum
import math

import jax
import numpy as np

from soler1_jax.checkpoints.hf_config import require_qwen3_vl
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional

Path = tuple[str, ...]

EMBEDDINGS = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""Also stored, as a copy of the embeddings, by some writers of tied models."""


class Transform(enum.Enum):
    """How a stored tensor becomes a parameter."""

    SAME = "same"
    TRANSPOSE = "transpose"  # [out, in] -> [in, out]
    PATCHES = "patches"  # [out, channel, time, row, column] -> [all of these, out]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    Attributes:
      name: in the checkpoint.
      shape: in the checkpoint.
      path: of the parameter in our tree.
      layer: which entry of the parameter's leading axis; None if it is all of it.
      transform: from the stored form to ours.
    """

    name: str
    shape: tuple[int, ...]
    path: Path
    layer: int | None
    transform: Transform

    def to_ours(self, stored: np.ndarray) -> np.ndarray:
        """Turns a stored tensor into (a layer of) our parameter; a view if possible.

        Also turns some of the tensor's entries along its first axis into the part of the
        parameter that they are, see `part`.
        """
        if self.transform is Transform.TRANSPOSE:
            return stored.T
        if self.transform is Transform.PATCHES:
            return stored.reshape(len(stored), -1).T
        return stored

    def to_stored(self, ours: np.ndarray) -> np.ndarray:
        """Inverse of `to_ours`."""
        if self.transform is Transform.SAME:
            return ours
        return ours.T.reshape(-1, *self.shape[1:])

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Of (a layer of) our parameter."""
        if self.transform is Transform.SAME:
            return self.shape
        return math.prod(self.shape[1:]), self.shape[0]

    def part(self, low: int, high: int) -> tuple[int | slice, ...]:
        """Where the stored entries `low` to `high - 1` are in our parameter."""
        layer = () if self.layer is None else (self.layer,)
        if self.transform is Transform.SAME:
            return *layer, slice(low, high)
        return *layer, slice(None), slice(low, high)


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Lists the tensors of a model in the order of our tree.

    Raises:
      UserError: the model is not a Qwen3-VL.
    """
    require_qwen3_vl(config)
    found: list[Tensor] = []
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    for keys, leaf in leaves:
        path = tuple(key.key for key in keys)
        if "stacked" in path:
            place = path.index("stacked")
            for layer in range(leaf.shape[0]):
                single = (*path[:place], "blocks", str(layer), *path[place + 1 :])
                found.append(_tensor(config, path, single, leaf.shape[1:], layer))
        else:
            found.append(_tensor(config, path, path, leaf.shape, None))
    return tuple(found)


def by_parameter(config: ModelConfig) -> dict[Path, list[Tensor]]:
    """Path of each parameter -> its tensors, in the order of its layers."""
    groups: dict[Path, list[Tensor]] = {}
    for tensor in tensors(config):
        groups.setdefault(tensor.path, []).append(tensor)
    return groups


def tensor_count(config: ModelConfig) -> int:
    """Numbers in all tensors of a checkpoint."""
    return sum(math.prod(tensor.shape) for tensor in tensors(config))


def _tensor(
    config: ModelConfig,
    path: Path,
    single: Path,
    shape: tuple[int, ...],
    layer: int | None,
) -> Tensor:
    """Describes the parameter at `path`; `single` is the path it has when not stacked."""
    *module, kind = single
    leaf = "bias" if kind == "bias" else "weight"
    name = ".".join([*_module(module), leaf])
    transform = Transform.SAME
    if kind == "kernel":
        transform, shape = Transform.TRANSPOSE, shape[::-1]
    if single[:2] == ("visual", "patch_embed") and kind == "kernel":
        side = config.vision.patch_size
        transform = Transform.PATCHES
        shape = (shape[0], 3, config.vision.temporal_patch_size, side, side)
    return Tensor(name, tuple(shape), path, layer, transform)


def _module(path: list[str]) -> list[str]:
    """The checkpoint's name of a module, from its path without stacking."""
    match path:
        case ["lm_head"]:
            return path
        case ["embed_tokens"]:
            return ["model", "language_model", *path]
        case ["visual", "blocks", "blocks", *rest]:
            return ["model", "visual", "blocks", *rest]
        case ["language_model", "layers", "blocks", *rest]:
            return ["model", "language_model", "layers", *rest]
        case ["visual", ("merger" | "deepstack_merger_list"), *_]:
            # The feed-forward layers of a merger have no module of their own there.
            return ["model", *(key for key in path if key != "mlp")]
        case _:
            return ["model", *path]
