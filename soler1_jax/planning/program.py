"""A program to be compiled, with what is known of it before."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much a step is given.

    Attributes:
      batch: rows, or prompts.
      tokens: of each, those of pictures included.
      pictures: in each.
      picture_side: in pixels.
      new_tokens: written to each prompt, or to each of its completions.
      group: completions of a prompt, where there are several.
      microbatches: parts whose gradients are summed one after another.
    """

    batch: int
    tokens: int
    pictures: int = 4
    picture_side: int = 256
    new_tokens: int = 64
    group: int = 8
    microbatches: int = 1

    def __post_init__(self) -> None:
        """Raises UserError for sizes that are not positive."""
        for field in dataclasses.fields(self):
            name = field.name.replace("_", "-")
            require_positive(f"--{name}", getattr(self, field.name))

    def patches(self, config: ModelConfig) -> int:
        """Patches of a picture.

        Raises:
          UserError: the model takes no such pictures, or they leave no room for words.
        """
        vision = config.vision
        side = vision.patch_size * vision.spatial_merge_size
        if self.picture_side % side:
            raise UserError(
                f"pictures of {config.name} are multiples of {side} pixels wide; got "
                f"--picture-side {self.picture_side}; round it"
            )
        patches = (self.picture_side // vision.patch_size) ** 2
        shown = self.pictures * patches // vision.spatial_merge_size**2
        if shown >= self.tokens:
            raise UserError(
                f"words need room beside pictures; got {self.tokens} tokens of which "
                f"{self.pictures} pictures take {shown}; raise --tokens"
            )
        return patches


class Program(NamedTuple):
    """A jitted function with its arguments, and what one run of it is.

    Attributes:
      function: of `jax.jit`.
      arguments: pytrees of `jax.ShapeDtypeStruct` with shardings.
      parameters: of the model.
      tokens: that one run reads and writes.
      model_flops: that the model needs, of all chips.
      flops: that are computed, of all chips: what is computed again counts too.
      unknown_trips: of loops whose length is decided while they run: the most, by a
        scope in which they stand; "" for all others.
    """

    function: Any
    arguments: Sequence[Any]
    parameters: int
    tokens: int
    model_flops: float
    flops: float
    unknown_trips: Mapping[str, int]

    def lower(self) -> jax.stages.Lowered:
        """Traces it."""
        return self.function.lower(*self.arguments)

    def argument_bytes(self) -> int:
        """Bytes of the arguments on one chip, without the padding of its layout."""
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(self.arguments)
        )


def weights(config: ModelConfig) -> Params:
    """Shapes of a model's weights in its own dtype, as it is asked with."""
    dtype = jnp.dtype(config.dtype)
    return jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, dtype), Functional(config).shapes()
    )


def placed(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings, a tree of them or one for all."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def by_row(shapes: Any, mesh: Mesh) -> Any:
    """Shapes split by their first axis, where the mesh divides it."""

    def place(x: Any) -> jax.ShapeDtypeStruct:
        logical = ("batch", *[None] * (len(x.shape) - 1))
        spec = meshes.partition_spec(logical, x.shape, mesh)
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, shapes)


def require_qwen(config: ModelConfig, stage: str) -> None:
    """Raises UserError unless a model has Qwen3-VL's shape."""
    if (
        config.media is None
        or config.vision.stem != "linear"
        or not config.text.qk_norm
    ):
        raise UserError(
            f"--stage {stage} is planned for models of Qwen3-VL's shape; got "
            f"{config.name!r}; use qwen3-vl-2b, -4b or -8b"
        )
