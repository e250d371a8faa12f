"""Task sentences as the token ids that a rewarder is asked with.

One length serves all sentences, so that another task never compiles again. Letters: B
sentences, L token ids.
"""

from collections.abc import Sequence

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import TaskText
from soler1_jax.data import text
from soler1_jax.tokenizers.sentencepiece import Tokenizer

# The length that training uses (data/batches.py).
PROMPT_LENGTH = 24


def prepare(
    tokenizer: Tokenizer, sentences: Sequence[str], length: int = PROMPT_LENGTH
) -> TaskText:
    """Encodes task sentences, with the previous progress hidden.

    Args:
      tokenizer: of the model.
      sentences: B task sentences in any writing.
      length: L.

    Returns:
      TaskText of numpy arrays [B, L].

    Raises:
      UserError: a sentence is empty or longer than L tokens.
    """
    prompts = [text.progress_prompt(sentence) for sentence in sentences]
    for sentence, prompt in zip(sentences, prompts, strict=True):
        if not prompt:
            raise UserError(
                f"a task is a sentence; got {sentence!r}; say what is to be done"
            )
    return TaskText(*tokenizer.encode_batch(prompts, length))
