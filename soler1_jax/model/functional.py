"""The model as pure functions over a plain tree of arrays.

Splitting once and merging inside `jax.jit` costs tracing time only; an `nnx.jit` call
walks the whole module tree at every step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.common.errors import UserError
from soler1_jax.model.cache import Cache
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.grounding import DenseLogits, Grounded
from soler1_jax.model.outputs import Outputs, Step
from soler1_jax.model.patches import Patches
from soler1_jax.model.prefix import Prefix
from soler1_jax.model.prompt import Prompt
from soler1_jax.model.vision import FrameFeatures
from soler1_jax.model.vlm import VLM

# Nested dictionaries with string keys and float32 arrays.
Params = dict[str, Any]
Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Functional:
    """`VLM`'s methods with the parameters as first argument; see there for the rest.

    Hashable, so it can be a static argument of `jax.jit`. Every method is pure.
    """

    config: ModelConfig

    def module(self, params: Params) -> VLM:
        """Puts parameters into the module; use it inside a traced function."""
        graph, leaves = _structure(self.config)
        state = {path: leaf.replace(_get(params, path)) for path, leaf in leaves}
        return nnx.merge(graph, nnx.from_flat_state(state))

    def init(self, seed: int) -> Params:
        """Draws parameters; float32, reproducible from the seed."""
        state = nnx.state(VLM(self.config, rngs=nnx.Rngs(params=seed)))
        return _nest({p: v[...] for p, v in nnx.to_flat_state(state)})

    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters, without computing any."""
        leaves = _structure(self.config)[1]
        return _nest({p: jax.ShapeDtypeStruct(v.shape, jnp.float32) for p, v in leaves})

    def logical_axes(self) -> Params:
        """A tree like the parameters whose leaves are tuples of logical axis names."""
        names = {}
        for path, leaf in _structure(self.config)[1]:
            axes = leaf.get_metadata()["logical"]
            names[path] = ("layers",) * (len(leaf.shape) - len(axes)) + axes
        return _nest(names)

    def encode(
        self, params: Params, frames: jax.Array, wrist: jax.Array | None = None
    ) -> FrameFeatures:
        """See `VLM.encode`."""
        return self.module(params).encode(frames, wrist)

    def dense(self, params: Params, features: FrameFeatures) -> DenseLogits:
        """See `VLM.dense`."""
        return self.module(params).dense(features)

    def ground(
        self, params: Params, features: FrameFeatures, ids: jax.Array, mask: jax.Array
    ) -> Grounded:
        """See `VLM.ground`."""
        return self.module(params).ground(features, ids, mask)

    def encode_patches(self, params: Params, patches: Patches) -> FrameFeatures:
        """See `VLM.encode_patches`."""
        return self.module(params).encode_patches(patches)

    def mix(
        self, params: Params, prompt: Prompt, features: FrameFeatures | None = None
    ) -> Prefix:
        """See `VLM.mix`."""
        return self.module(params).mix(prompt, features)

    def prompt_logits(self, params: Params, prefix: Prefix) -> jax.Array:
        """See `VLM.prompt_logits`."""
        return self.module(params).prompt_logits(prefix)

    def prefix(self, params: Params, *args: Any, **kwargs: Any) -> Prefix:
        """See `VLM.prefix`."""
        return self.module(params).prefix(*args, **kwargs)

    def logits(
        self, params: Params, prefix: Prefix, ids: jax.Array, mask: jax.Array
    ) -> Outputs:
        """See `VLM.logits`."""
        return self.module(params).logits(prefix, ids, mask)

    def prefill(
        self, params: Params, prefix: Prefix, capacity: int, group: int = 1
    ) -> tuple[Cache, Step, jax.Array]:
        """See `VLM.prefill`."""
        return self.module(params).prefill(prefix, capacity, group)

    def decode_step(
        self, params: Params, cache: Cache, token: jax.Array
    ) -> tuple[Cache, Step]:
        """See `VLM.decode_step`."""
        return self.module(params).decode_step(cache, token)


def functional(config: ModelConfig, seed: int = 0) -> tuple[Functional, Params]:
    """Returns the pure functions of a model and freshly drawn parameters."""
    model = Functional(config)
    return model, model.init(seed)


def parameter_count(params: Params) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


_STRUCTURES: dict[ModelConfig, Any] = {}


def _structure(config: ModelConfig) -> tuple[nnx.GraphDef, list[tuple[Path, Any]]]:
    if config not in _STRUCTURES:
        model = nnx.eval_shape(lambda: VLM(config, rngs=nnx.Rngs(params=0)))
        graph, state = nnx.split(model)
        _STRUCTURES[config] = graph, list(nnx.to_flat_state(state))
    return _STRUCTURES[config]


def _get(params: Params, path: Path) -> jax.Array:
    node = params
    for key in path:
        if str(key) not in node:
            raise UserError(
                "the weights must fit the model's configuration; parameter "
                f"{'/'.join(map(str, path))} is missing; restore both from one folder"
            )
        node = node[str(key)]
    return node


def _nest(flat: dict[Path, Any]) -> Params:
    nested: Params = {}
    for path, value in flat.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(str(key), {})
        node[str(path[-1])] = value
    return nested
