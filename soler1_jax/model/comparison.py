"""What changed between two frames, in the light of the sentence.

Whether a motion is progress depends on the verb: the same turn of a door opens it for
one sentence and undoes another. That is a product of what was asked and what moved, and
a small decoder finds products of tokens that lie far apart only after very many
examples. Here the product is computed outright (a feature-wise gate, as FiLM,
arXiv 1709.07871), and its token is added to the slots of the current frame.

Letters: B queries, L words, D channels of the decoder.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.model.config import ModelConfig
from soler1_jax.model.grounding import Grounded, PhraseEncoder
from soler1_jax.model.layers import MLP, Linear

# Centimetres are what counts in a motion.
STEP_UNIT = 0.1


class Change(NamedTuple):
    """What a comparison of two frames gives."""

    token: jax.Array  # [B, D]
    act: jax.Array  # float32 [B], fraction of the task's motion done in between


class Comparer(nnx.Module):
    """Compares the gripper and the named thing of two frames: slots and positions.

    It has its own word vectors: what finds a thing is its noun, what judges a motion
    is the verb.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        hidden, size = config.text.hidden_size, config.grounding.size
        self.phrase = PhraseEncoder(config.text.vocab_size, size, rngs=rngs)
        self.gate = Linear((size, hidden), (None, "embed"), use_bias=True, rngs=rngs)
        self.change = MLP((4 * hidden + 12, hidden, hidden), rngs=rngs)
        self.token = Linear((hidden, hidden), ("embed", None), use_bias=True, rngs=rngs)
        self.act = Linear((hidden, 1), ("embed", None), use_bias=True, rngs=rngs)

    def __call__(
        self, before: Grounded, now: Grounded, ids: jax.Array, mask: jax.Array
    ) -> Change:
        """Compares two frames [B, ...], asked with words int32 and bool [B, L]."""
        slots = jnp.concatenate([before.tokens[:, -2:], now.tokens[:, -2:]], axis=1)
        then, here = before.position[:, :2], now.position[:, :2]
        ways = [here - then, here[:, :1] - here[:, 1:], then[:, :1] - then[:, 1:]]
        way = jnp.concatenate(ways, axis=1) / STEP_UNIT
        features = [x.reshape(len(x), -1).astype(slots.dtype) for x in (slots, way)]
        goal = self.gate(self.phrase(ids, mask, slots.dtype))
        product = goal * self.change(jnp.concatenate(features, axis=1))
        return Change(self.token(product), self.act(product)[:, 0].astype(jnp.float32))
