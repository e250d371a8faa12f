"""Task sentences as the token ids that a rewarder is asked with.

One length serves all sentences, so that another task never compiles again. Letters: B
sentences, L token ids, W of the words before a number.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import TaskText
from soler1_jax.data import text
from soler1_jax.tokenizers.sentencepiece import FIRST_DIGIT, MINUS, PLUS, Tokenizer

# The length that training uses (data/batches.py).
PROMPT_LENGTH = 24
# A sign and three digits.
NUMBER_LENGTH = 4


def prepare(
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    length: int = PROMPT_LENGTH,
    room: int = 0,
) -> TaskText:
    """Encodes task sentences, with the previous progress hidden.

    Args:
      tokenizer: of the model.
      sentences: B task sentences in any writing.
      length: L.
      room: how many of the L are kept free.

    Returns:
      TaskText of numpy arrays [B, L].

    Raises:
      UserError: a sentence is empty or longer than L - room tokens.
    """
    prompts = [text.progress_prompt(sentence) for sentence in sentences]
    for sentence, prompt in zip(sentences, prompts, strict=True):
        if not prompt:
            raise UserError(
                f"a task is a sentence; got {sentence!r}; say what is to be done"
            )
    ids, mask = tokenizer.encode_batch(prompts, length - room)
    free = ((0, 0), (0, room))
    return TaskText(np.pad(ids, free), np.pad(mask, free))


def before_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """The ids of " before" as it stands between a sentence and a number, int32 [W]."""
    sentence = "lift it"
    whole = tokenizer.encode(text.progress_prompt(sentence, 0))
    ids = whole[len(tokenizer.encode(sentence)) : -NUMBER_LENGTH]
    return np.asarray(ids, np.int32)


def with_previous(task: TaskText, before: np.ndarray, progress: jax.Array) -> TaskText:
    """Adds the previous progress to prompts, as `text.progress_prompt` writes it.

    Args:
      task: ids and mask [B, L] with room for W + NUMBER_LENGTH more.
      before: of `before_tokens`.
      progress: float32 [B], percent.

    Returns:
      TaskText [B, L].
    """
    rounded = jnp.round(progress).astype(jnp.int32)
    size = jnp.abs(rounded)
    digits = [FIRST_DIGIT + size // unit % 10 for unit in (100, 10, 1)]
    sign = jnp.where(rounded < 0, MINUS, PLUS)
    number = jnp.stack([sign, *digits], axis=1)
    words = jnp.broadcast_to(jnp.asarray(before), (len(number), len(before)))
    added = jnp.concatenate([words, number], axis=1)
    length = jnp.sum(task.mask, axis=1, dtype=jnp.int32)
    places = length[:, None] + jnp.arange(added.shape[1])
    rows = jnp.arange(len(number))[:, None]
    return TaskText(
        jnp.asarray(task.ids).at[rows, places].set(added),
        jnp.asarray(task.mask).at[rows, places].set(True),
    )
