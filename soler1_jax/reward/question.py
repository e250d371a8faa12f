"""Questions whose only variable part is the progress stated before, as arrays.

A released rewarder is told in words what it stated last. Inside jit there is no
tokenizer, so the question is encoded beforehand for every whole percent. What all of
these have in common is laid out once; the tokens that differ get as many places as the
longest of them, and the unused places are masked out and take no position.

Letters: B questions, T places, m places for the number, R percents from -100 to 100.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.rewarder import MAX_PROGRESS
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.prompt import Prompt, make_prompt

PERCENTS = range(-int(MAX_PROGRESS), int(MAX_PROGRESS) + 1)


class Question(NamedTuple):
    """Prompts with a place for a number; leading axis B."""

    prompt: Prompt  # the number's places are filled with its longest form
    numbers: jax.Array  # int32 [B, R, m], tokens
    lengths: jax.Array  # int32 [B, R], how many of them there are
    start: jax.Array  # int32 [B], place of the first


def make_questions(
    config: ModelConfig,
    encode: Callable[[int], Sequence[list[int]]],
    grid: tuple[int, int, int],
    pad_id: int,
) -> Question:
    """Encodes questions about one picture each, on the host.

    Args:
      config: of the model.
      encode: percent -> token ids of all B questions.
      grid: patches of the picture: 1, rows, columns.
      pad_id: what fills places on the left.
    """
    told = [encode(percent) for percent in PERCENTS]
    parts = [_split([row[b] for row in told]) for b in range(len(told[0]))]
    widest = max(middle.shape[1] for _, middle, _, _ in parts)
    length = max(len(head) + widest + len(tail) for head, _, _, tail in parts)
    rows = [_lay_out(config, part, (length, widest), grid, pad_id) for part in parts]
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def fill(question: Question, progress: jax.Array, capacity: int) -> Prompt:
    """Puts in what was stated before; inside jit.

    Args:
      question: B questions.
      progress: float32 [B], percent; told as a whole number.
      capacity: K, places for a picture's tokens; question b asks about picture b.
    """
    prompt, batch = question.prompt, progress.shape[0]
    row = jnp.round(progress).astype(jnp.int32) - PERCENTS[0]
    places = jnp.arange(batch)
    tokens, count = question.numbers[places, row], question.lengths[places, row]
    width = tokens.shape[1]
    at = question.start[:, None] + jnp.arange(width)
    spoken = jnp.arange(width) < count[:, None]
    ids = jnp.asarray(prompt.ids).at[places[:, None], at].set(tokens)
    mask = jnp.asarray(prompt.mask).at[places[:, None], at].set(spoken)
    # Places that stay empty take no position from what follows.
    empty = (width - count)[:, None]
    later = jnp.arange(ids.shape[1]) >= (question.start + width)[:, None]
    positions = prompt.positions - jnp.where(later, empty, 0)[:, None]
    source = jnp.asarray(prompt.source)
    shifted = source + capacity * places[:, None]
    return Prompt(
        ids=ids,
        mask=mask,
        positions=positions,
        source=jnp.where(source >= 0, shifted, -1),
        last=prompt.last,
        next_position=prompt.next_position - empty[:, 0],
    )


def _split(
    told: Sequence[list[int]],
) -> tuple[list[int], np.ndarray, np.ndarray, list[int]]:
    """Common head, differing middles [R, m] with their lengths [R], common tail."""
    shortest = min(len(ids) for ids in told)
    head = 0
    while head < shortest and len({ids[head] for ids in told}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({ids[-1 - tail] for ids in told}) == 1:
        tail += 1
    middles = [ids[head : len(ids) - tail] for ids in told]
    lengths = np.array([len(middle) for middle in middles], np.int32)
    padded = np.zeros((len(told), lengths.max()), np.int32)
    for row, middle in zip(padded, middles, strict=True):
        row[: len(middle)] = middle
    return told[0][:head], padded, lengths, told[0][len(told[0]) - tail :]


def _lay_out(
    config: ModelConfig,
    part: tuple[list[int], np.ndarray, np.ndarray, list[int]],
    sizes: tuple[int, int],
    grid: tuple[int, int, int],
    pad_id: int,
) -> Question:
    """One question, padded on the left to a common length and number of places."""
    head, middles, lengths, tail = part
    length, width = sizes
    middles = np.pad(middles, ((0, 0), (0, width - middles.shape[1])))
    ids = [*head, *[pad_id] * width, *tail]
    missing = length - len(ids)
    picture = np.zeros((int(np.prod(grid)), config.vision.patch_values), np.float32)
    prompt, _ = make_prompt(
        config,
        [[pad_id] * missing + ids],
        [[0] * missing + [1] * len(ids)],
        pixel_values=picture,
        image_grid_thw=[grid],
    )
    return Question(
        prompt=Prompt(*(np.asarray(x)[0] for x in prompt)),
        numbers=middles,
        lengths=lengths,
        start=np.int32(missing + len(head)),
    )
