"""Which parameters are trained: all, all but the picture encoder's, or low-rank factors.

What is not trained is kept apart from the training state, in the dtype of activations
and without moments, and is neither changed nor written to checkpoints.

Source: LoRA (arXiv 2106.09685), section 4.1.
"""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError, require_non_negative, require_positive
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params

_FACTORS = ("lora_a", "lora_b")
_ENCODER = "visual"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained.

    Attributes:
      lora_rank: of factors beside the kernels of the decoder's layers, which then are all
        that is trained; 0 for none.
      lora_alpha: the factors' product counts lora_alpha / lora_rank.
      encoder: whether the picture encoder is trained, where there are no factors.
    """

    lora_rank: int = 0
    lora_alpha: float = 16.0
    encoder: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_non_negative("--lora-rank", self.lora_rank)
        require_positive("--lora-alpha", self.lora_alpha)

    def config(self, base: ModelConfig) -> ModelConfig:
        """The model's configuration with its factors."""
        text = dataclasses.replace(
            base.text, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha
        )
        return dataclasses.replace(base, text=text)

    def split(self, tree: Params) -> tuple[Params, Params]:
        """Takes a tree like the parameters apart: what is trained, and the rest.

        Args:
          tree: nested dictionaries of parameters, shapes, axes or the like.

        Raises:
          UserError: nothing would be trained.
        """
        trained, frozen = (self._part(tree, [], wanted) for wanted in (True, False))
        if not trained:
            raise UserError(
                "nothing of this model would be trained; choose other parts"
            )
        return trained, frozen

    def _part(self, node: Any, names: list[str], wanted: bool) -> Any:
        """The leaves below `names` that are trained, or are not; None if there are none."""
        if not isinstance(node, dict):
            return node if self._is_trained(names) == wanted else None
        parts = {k: self._part(v, [*names, k], wanted) for k, v in node.items()}
        found = {k: v for k, v in parts.items() if v is not None}
        return found or (None if names else {})

    def _is_trained(self, names: list[str]) -> bool:
        if self.lora_rank:
            return names[-1] in _FACTORS
        return self.encoder or names[0] != _ENCODER


def join(trained: Params, frozen: Params) -> Params:
    """Puts together what `Trained.split` took apart."""
    both = {**frozen, **trained}
    for name in frozen.keys() & trained.keys():
        both[name] = join(trained[name], frozen[name])
    return both


def with_factors(config: ModelConfig, params: Params, seed: int) -> Params:
    """Adds freshly drawn factors to parameters without; inside jit or out.

    Args:
      config: of `Trained.config`.
      params: as they were loaded.
      seed: of the draws.
    """

    def fill(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        names = _names(path)
        if names[-1] == "lora_b":
            return jnp.zeros(like.shape)
        if names[-1] == "lora_a":
            key = jax.random.fold_in(jax.random.key(seed), _number(names))
            std = like.shape[-2] ** -0.5
            return std * jax.random.truncated_normal(key, -2.0, 2.0, like.shape)
        leaf = params
        for name in names:
            leaf = leaf[name]
        return leaf

    return jax.tree_util.tree_map_with_path(fill, Functional(config).shapes())


def merged(config: ModelConfig, params: Params) -> Params:
    """Adds the factors' products to the kernels: parameters of the model as it was.

    Args:
      config: of `Trained.config`.
      params: with factors; inside jit or out.
    """
    if not config.text.lora_rank:
        return params
    scale = config.text.lora_alpha / config.text.lora_rank

    def merge(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        kept = {k: merge(v) for k, v in node.items() if k not in _FACTORS}
        if _FACTORS[0] in node:
            down, up = (node[name].astype(jnp.float32) for name in _FACTORS)
            added = jnp.matmul(down, up, precision="highest")
            kernel = node["kernel"]
            total = kernel.astype(jnp.float32) + scale * added
            kept["kernel"] = total.astype(kernel.dtype)
        return kept

    return merge(params)


def _names(path: Any) -> list[str]:
    return [str(entry.key) for entry in path]


def _number(names: list[str]) -> int:
    """A number that a path always has."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return int.from_bytes(digest[:4], "little")
