"""Heat maps of the gripper and of named things, and what is read off them.

A phrase becomes one query vector, patches become keys, and the softmax of their products
over the patches is a map of where the thing is. The slot token of a thing is the patch
features averaged under its map, together with the map's centre. Supervised by the
renderer's segmentation this is what lets a model of a million parameters see.

The wrist camera's view, where there is one, has maps of its own, with one place more
for what it does not show; what lies under them goes into the same slot.

Letters: N frames, P patches and Pw of the wrist's view, K merged tokens, L words of a phrase, M phrases, Dv and D
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
    """What each patch shows, float32; those of the wrist's view come last."""

    classes: jax.Array  # [N, P(+Pw), 8]
    color: jax.Array  # [N, P(+Pw), 7]
    shape: jax.Array  # [N, P(+Pw), 4]


class Grounded(NamedTuple):
    """A frame seen with a phrase in mind. Leading axis N throughout."""

    tokens: jax.Array  # [N, K+2, D]: merged tokens, gripper slot, slot of phrase 0
    deepstack: jax.Array  # [N, Ls, K+2, D], zero at the slots
    heat_logits: jax.Array  # float32 [N, 1+M, P]; 0 is the gripper
    position: jax.Array  # float32 [N, 1+M, 3], metres
    # The last place: not in the wrist's view. None without that view.
    wrist_logits: jax.Array | None = None  # float32 [N, 1+M, Pw+1]


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
        sizes, width = config.grounding, config.vision.map_size
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
        if config.wrist_size:
            features = 2 * features + 1
            self.unseen = self._head(sizes.size, 1, rngs)
        self.slot = MLP((features, hidden, hidden), rngs=rngs)
        self.slot_roles = parameter(
            jax.random.normal(rngs.params(), (2, hidden)) * 0.5, (None, "embed")
        )
        self.position_head = self._head(hidden, 3, rngs)
        self.grid, self.wrist_grid = config.vision.map_grid, config.wrist_map_grid
        self.dtype = config.dtype
        self.frequencies = sizes.coordinate_frequencies

    @staticmethod
    def _head(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
        return Linear((inputs, outputs), ("embed", None), use_bias=True, rngs=rngs)

    def dense(self, features: FrameFeatures) -> DenseLogits:
        """Classifies every patch."""
        x = features.patches
        if features.wrist is not None:
            x = jnp.concatenate([x, features.wrist], axis=1)
        x = self.norm(x)
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
        logits = self._heat(query, x)
        parts, wrist_logits = [self._under(x, logits, self.grid)], None
        if self.wrist_grid:
            close, wrist_logits = self._look_close(features, query)
            parts.append(close.astype(parts[0].dtype))
        slots = self.slot(jnp.concatenate(parts, axis=-1))
        roles = self.slot_roles[...].astype(slots.dtype)
        slots += jnp.repeat(roles, np.array([1, slots.shape[1] - 1]), axis=0)
        position = self.position_head(slots).astype(jnp.float32) * POSITION_UNIT
        tokens = jnp.concatenate([features.tokens, slots[:, :2]], axis=1)
        deepstack = jnp.pad(features.deepstack, ((0, 0), (0, 0), (0, 2), (0, 0)))
        return Grounded(tokens, deepstack, logits, position, wrist_logits)

    def _heat(self, query: jax.Array, x: jax.Array) -> jax.Array:
        """Maps over normed patches [N, P, Dv], float32 [N, 1+M, P]."""
        logits = jnp.einsum(
            "nmc,npc->nmp", query, self.key(x), preferred_element_type=jnp.float32
        )
        return logits * query.shape[-1] ** -0.5

    def _look_close(
        self, features: FrameFeatures, query: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """What the wrist's view adds to a slot [N, 1+M, F], and its maps.

        All of it is zero where a thing is not in view, or there is no view.
        """
        count, things = query.shape[:2]
        if features.wrist is None:
            size = features.patches.shape[-1] + 4 * self.frequencies + 3
            return jnp.zeros((count, things, size)), None
        x = self.norm(features.wrist)
        logits = self._heat(query, x)
        unseen = self.unseen(query).astype(jnp.float32)
        logits = jnp.concatenate([logits, unseen], axis=-1)
        seen = 1 - jax.nn.softmax(logits, axis=-1)[..., -1:]
        seen *= features.wrist_seen[:, None, None]
        found = self._under(x, logits[..., :-1], self.wrist_grid)
        return jnp.concatenate([found * seen.astype(x.dtype), seen], axis=-1), logits

    def _under(self, x: jax.Array, logits: jax.Array, grid: int) -> jax.Array:
        """Pools normed patches under maps, with where they point: [N, 1+M, F]."""
        heat = jax.nn.softmax(logits, axis=-1)
        pooled = jnp.einsum("nmp,npc->nmc", heat.astype(x.dtype), x)
        places = jnp.asarray(patch_centres(grid))
        centre = heat @ places
        # Computed on centred places: the difference of two squares would cancel.
        offsets = places[None, None] - centre[:, :, None]
        spread = jnp.einsum("nmp,nmpc->nmc", heat, offsets**2)
        waves = jnp.pi * centre[..., None] * 2.0 ** jnp.arange(self.frequencies)
        waves = waves.reshape(*centre.shape[:2], -1)
        place = jnp.concatenate([jnp.sin(waves), jnp.cos(waves), spread], axis=-1)
        return jnp.concatenate([pooled, place.astype(x.dtype)], axis=-1)


def patch_centres(grid: int) -> np.ndarray:
    """Centres of the patches as (row, column) in [-1, 1], float32 [grid^2, 2]."""
    line = (np.arange(grid) + 0.5) / grid * 2 - 1
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=-1).astype(np.float32)
