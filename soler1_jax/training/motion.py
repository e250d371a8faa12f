"""The loss of comparing frames: how much of the task's own motion lies between them.

Every pair of frames of an episode is a sample, backwards too, since a motion can be
undone. Which way is progress must follow from the verb: the model's comparison reads no
nouns, and its decoder is shown a part of the prompts without theirs.
Letters: E episodes a batch, Q queries each, N comparisons of F frames, L words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.data.records import SOURCES
from soler1_jax.tokenizers.sentencepiece import PAD, UNK
from soler1_jax.training import losses

Batch = Mapping[str, jax.Array]
Words = tuple[jax.Array, jax.Array]


def without_nouns(batch: Batch, key: jax.Array, share: float) -> jax.Array:
    """Prompts of progress queries with the noun's words unknown, at random.

    Args:
      batch: of data/batches.py.
      key: draws which prompts lose their noun.
      share: how many do.

    Returns:
      int32 [E,Q,L].
    """
    rows = jnp.arange(len(batch["named"]))
    names = jnp.where(batch["name_mask"], batch["name_ids"], PAD)[rows, batch["named"]]
    prompts = batch["prompt_ids"]
    noun = (prompts[..., None] == names[:, None, None]).any(-1) & (prompts != PAD)
    hidden = jax.random.bernoulli(key, share, batch["source"].shape)
    hidden &= batch["source"] == SOURCES.index("progress")
    return jnp.where(noun & hidden[..., None], UNK, prompts)


def act_error(
    model: Any,
    frames: Sequence[Any],
    words: Words,
    acts: jax.Array,
    shown: jax.Array,
) -> jax.Array:
    """Mean squared error of the act between all ordered pairs of F frames.

    Args:
      model: bound model; 0 for one without comparison.
      frames: F times Grounded [N,...], grounded with the task's words.
      words: ids int32 and mask bool [N,L], by which motions are judged.
      acts: float32 [N,F], the act's fraction at each frame.
      shown: bool [N,F], False where a frame is not there.
    """
    if not model.compares:
        return jnp.zeros(())
    told, true, both = [], [], []
    for i, before in enumerate(frames):
        for j, now in enumerate(frames):
            if i != j:
                told.append(model.compare(before, now, *words).act)
                true.append(acts[:, j] - acts[:, i])
                both.append(shown[:, i] & shown[:, j])
    error = jnp.square(jnp.stack(told) - jnp.stack(true))
    return losses.masked_mean(error, jnp.stack(both))
