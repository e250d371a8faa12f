"""Heat maps of the gripper and of named things, and what is read off them.

A phrase becomes one query vector, patches become keys, and the softmax of their products
over the patches is a map of where the thing is. The slot token of a thing is the patch
features averaged under its map, together with the map's centre. Supervised by the
renderer's segmentation this is what lets a model of a million parameters see.

Letters: N frames, P patches, K merged tokens, L words of a phrase, M phrases, Dv and D
channels of encoder and decoder, Ls DeepStack levels. Positions are metres in the world.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from soler1_jax.model.attention import MASKED
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.layers import MLP, Embedding, LayerNorm, Linear, parameter
from soler1_jax.model.vision import FrameFeatures

# Spread of the scene, so that the position head's outputs are of order one.
POSITION_UNIT = 0.2


class DenseLogits(NamedTuple):
    """What each patch shows, float32."""

    classes: jax.Array  # [N, P, 8]
    color: jax.Array  # [N, P, 7]
    shape: jax.Array  # [N, P, 4]


class Grounded(NamedTuple):
    """A frame seen with a phrase in mind. Leading axis N throughout."""

    tokens: jax.Array  # [N, K+2, D]: merged tokens, gripper slot, slot of phrase 0
    deepstack: jax.Array  # [N, Ls, K+2, D], zero at the slots
    heat_logits: jax.Array  # float32 [N, 1+M, P]; 0 is the gripper
    position: jax.Array  # float32 [N, 1+M, 3], metres


class PhraseEncoder(nnx.Module):
    """Words to a query: a learned weighting of word vectors, then a small MLP.

    It has its own word vectors, so that perception can be trained before, beside and
    after the decoder without moving it.
    """

    def __init__(self, vocab_size: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.words = Embedding(
            vocab_size, size, ("vocab", None), scale=size**-0.5, rngs=rngs
        )
        self.weight = Linear((size, 1), (None, None), use_bias=False, rngs=rngs)
        self.mlp = MLP((size, 2 * size, size), rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array, dtype: str) -> jax.Array:
        """Encodes int32 [..., L] where bool [..., L] holds: [..., size]."""
        words = self.words(ids, dtype)
        scores = self.weight(words)[..., 0].astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
        mixed = jnp.einsum("...l,...lc->...c", weights.astype(words.dtype), words)
        return mixed + self.mlp(mixed)


class Grounder(nnx.Module):
    """Dense heads, heat maps, slot tokens, positions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        sizes, width = config.grounding, config.vision.hidden_size
        hidden = config.text.hidden_size
        self.norm = LayerNorm(width)
        self.class_head = self._head(width, sizes.class_count, rngs)
        self.color_head = self._head(width, sizes.color_count, rngs)
        self.shape_head = self._head(width, sizes.shape_count, rngs)
        self.phrase = PhraseEncoder(config.text.vocab_size, sizes.size, rngs=rngs)
        self.gripper = parameter(
            jax.random.normal(rngs.params(), (sizes.size,)) * sizes.size**-0.5, (None,)
        )
        self.query = self._head(sizes.size, sizes.size, rngs)
        self.key = self._head(width, sizes.size, rngs)
        features = width + 4 * sizes.coordinate_frequencies + 2
        self.slot = MLP((features, hidden, hidden), rngs=rngs)
        self.slot_roles = parameter(
            jax.random.normal(rngs.params(), (2, hidden)) * 0.5, (None, "embed")
        )
        self.position_head = self._head(hidden, 3, rngs)
        self.grid, self.dtype = config.vision.grid, config.dtype
        self.frequencies = sizes.coordinate_frequencies

    @staticmethod
    def _head(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
        return Linear((inputs, outputs), ("embed", None), use_bias=True, rngs=rngs)

    def dense(self, features: FrameFeatures) -> DenseLogits:
        """Classifies every patch."""
        x = self.norm(features.patches)
        heads = (self.class_head, self.color_head, self.shape_head)
        return DenseLogits(*(head(x).astype(jnp.float32) for head in heads))

    def __call__(
        self, features: FrameFeatures, ids: jax.Array, mask: jax.Array
    ) -> Grounded:
        """Finds the gripper and M named things; see `VLM.ground`."""
        if ids.ndim == 2:
            ids, mask = ids[:, None], mask[:, None]
        x = self.norm(features.patches)
        named = self.phrase(ids, mask, self.dtype)
        gripper = self.gripper[...].astype(named.dtype)
        gripper = jnp.broadcast_to(gripper, (named.shape[0], 1, named.shape[-1]))
        query = self.query(jnp.concatenate([gripper, named], axis=1))
        logits = jnp.einsum(
            "nmc,npc->nmp", query, self.key(x), preferred_element_type=jnp.float32
        )
        logits = logits * query.shape[-1] ** -0.5
        slots = self._slots(x, logits)
        position = self.position_head(slots).astype(jnp.float32) * POSITION_UNIT
        tokens = jnp.concatenate([features.tokens, slots[:, :2]], axis=1)
        deepstack = jnp.pad(features.deepstack, ((0, 0), (0, 0), (0, 2), (0, 0)))
        return Grounded(tokens, deepstack, logits, position)

    def _slots(self, x: jax.Array, logits: jax.Array) -> jax.Array:
        """Pools patches [N, P, Dv] under the maps [N, 1+M, P]: [N, 1+M, D]."""
        heat = jax.nn.softmax(logits, axis=-1)
        pooled = jnp.einsum("nmp,npc->nmc", heat.astype(x.dtype), x)
        places = jnp.asarray(patch_centres(self.grid))
        centre = heat @ places
        # Computed on centred places: the difference of two squares would cancel.
        offsets = places[None, None] - centre[:, :, None]
        spread = jnp.einsum("nmp,nmpc->nmc", heat, offsets**2)
        waves = jnp.pi * centre[..., None] * 2.0 ** jnp.arange(self.frequencies)
        waves = waves.reshape(*centre.shape[:2], -1)
        place = jnp.concatenate([jnp.sin(waves), jnp.cos(waves), spread], axis=-1)
        slots = self.slot(jnp.concatenate([pooled, place.astype(x.dtype)], axis=-1))
        named = slots.shape[1] - 1
        roles = self.slot_roles[...].astype(slots.dtype)
        return slots + jnp.repeat(roles, np.array([1, named]), axis=0)


def patch_centres(grid: int) -> np.ndarray:
    """Centres of the patches as (row, column) in [-1, 1], float32 [grid^2, 2]."""
    line = (np.arange(grid) + 0.5) / grid * 2 - 1
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=-1).astype(np.float32)
