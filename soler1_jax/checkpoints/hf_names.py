"""Which tensor of a released checkpoint is which of our parameters.

Derived from the tree of parameters itself, so the list is complete by construction. A
scanned stack holds one parameter for all its layers; the checkpoint has one tensor for
each. Linear maps are stored [out, in] there and [in, out] here; the patch embedding is a
convolution there and a matrix here; queries, keys and values of a picture encoder may be
three matrices there and are one here. The names are those of the family's module,
`hf_qwen3_vl` or `hf_paligemma`.
"""

import dataclasses
import enum
import math
from collections.abc import Iterator
from types import ModuleType

import jax
import numpy as np

from soler1_jax.checkpoints.hf_config import family_of
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional

Path = tuple[str, ...]


class Transform(enum.Enum):
    """How a stored tensor becomes a parameter."""

    SAME = "same"
    TRANSPOSE = "transpose"  # [out, in] -> [in, out]
    PATCHES = "patches"  # [out, channel, (time,) row, column] -> [all of these, out]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    Attributes:
      name: in the checkpoint.
      shape: in the checkpoint.
      path: of the parameter in our tree.
      layer: which entry of the parameter's leading axis; None if it is all of it.
      transform: from the stored form to ours.
      offset: where along the parameter's last axis it starts; None if it is all of it.
    """

    name: str
    shape: tuple[int, ...]
    path: Path
    layer: int | None
    transform: Transform
    offset: int | None = None

    def slot(self, ours: np.ndarray) -> np.ndarray:
        """Returns the view of our whole parameter that this tensor fills."""
        ours = ours if self.layer is None else ours[self.layer]
        if self.offset is None:
            return ours
        return ours[..., self.offset : self.offset + self.shape[0]]

    def to_ours(self, stored: np.ndarray) -> np.ndarray:
        """Turns a stored tensor into what `slot` holds; a view if possible.

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
        """Of what `slot` holds."""
        if self.transform is Transform.SAME:
            return self.shape
        return math.prod(self.shape[1:]), self.shape[0]

    def part(self, low: int, high: int) -> tuple[int | slice, ...]:
        """Where the stored entries `low` to `high - 1` are in our parameter."""
        layer = () if self.layer is None else (self.layer,)
        start = self.offset or 0
        where = slice(start + low, start + high)
        if self.transform is Transform.SAME:
            return *layer, where
        return *layer, slice(None), where


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Lists the tensors of a model in the order of our tree.

    Raises:
      UserError: the model is of no family that has checkpoints.
    """
    family = family_of(config)
    found: list[Tensor] = []
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    for keys, leaf in leaves:
        path = tuple(key.key for key in keys)
        if "stacked" in path:
            place = path.index("stacked")
            for layer in range(leaf.shape[0]):
                single = (*path[:place], "blocks", str(layer), *path[place + 1 :])
                found += _stored(config, family, path, single, leaf.shape[1:], layer)
        else:
            found += _stored(config, family, path, path, leaf.shape, None)
    return tuple(found)


def by_parameter(config: ModelConfig) -> dict[Path, list[Tensor]]:
    """Path of each parameter -> its tensors, layer by layer, in their order."""
    groups: dict[Path, list[Tensor]] = {}
    for tensor in tensors(config):
        groups.setdefault(tensor.path, []).append(tensor)
    return groups


def tensor_count(config: ModelConfig) -> int:
    """Numbers in all tensors of a checkpoint."""
    return sum(math.prod(tensor.shape) for tensor in tensors(config))


def _stored(
    config: ModelConfig,
    family: ModuleType,
    path: Path,
    single: Path,
    shape: tuple[int, ...],
    layer: int | None,
) -> Iterator[Tensor]:
    """What holds the parameter at `path`; `single` is the path it has when not stacked."""
    *module, kind = single
    leaf = "bias" if kind == "bias" else "weight"
    names = family.module_names(module)
    count = len(names)
    shape = (*shape[:-1], shape[-1] // count)
    transform = Transform.SAME
    if kind == "kernel":
        transform, shape = Transform.TRANSPOSE, shape[::-1]
    if single[:2] == ("visual", "patch_embed") and kind == "kernel":
        side, times = config.vision.patch_size, config.vision.temporal_patch_size
        transform = Transform.PATCHES
        shape = (shape[0], 3, *((times,) if family.CONV_HAS_TIME else ()), side, side)
    for index, name in enumerate(names):
        offset = index * shape[0] if count > 1 else None
        yield Tensor(f"{name}.{leaf}", tuple(shape), path, layer, transform, offset)
