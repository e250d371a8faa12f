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
from soler1_jax.model.grounding import PhraseEncoder
from soler1_jax.model.layers import MLP, Linear


class Change(NamedTuple):
    """What a comparison of two frames gives."""

    token: jax.Array  # [B, D]
    act: jax.Array  # float32 [B], fraction of the task's motion done in between


class Comparer(nnx.Module):
    """Compares the gripper's and the named thing's slots of two frames.

    It has its own word vectors: what finds a thing is its noun, what judges a motion
    is mostly the verb.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        hidden, size = config.text.hidden_size, config.grounding.size
        self.phrase = PhraseEncoder(config.text.vocab_size, size, rngs=rngs)
        self.gate = Linear((size, hidden), (None, "embed"), use_bias=True, rngs=rngs)
        self.change = MLP((4 * hidden, hidden, hidden), rngs=rngs)
        self.token = Linear((hidden, hidden), ("embed", None), use_bias=True, rngs=rngs)
        self.act = Linear((hidden, 1), ("embed", None), use_bias=True, rngs=rngs)

    def __call__(
        self, before: jax.Array, now: jax.Array, ids: jax.Array, mask: jax.Array
    ) -> Change:
        """Compares slots [B, 2, D] of two frames, asked with words int32 [B, L]."""
        goal = self.gate(self.phrase(ids, mask, now.dtype))
        slots = jnp.concatenate([before, now], axis=1)
        product = goal * self.change(slots.reshape(len(slots), -1))
        return Change(self.token(product), self.act(product)[:, 0].astype(jnp.float32))
