"""All texts that a tokenizer must know, without a word of the unseen tasks.

The words of unseen tasks occur in trained ones (other objects, other verbs), so a
tokenizer built from this corpus writes them without the unknown token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from soler1_jax.data import text
from soler1_jax.data.records import CLAIMS, COLORS, SHAPES
from soler1_jax.data.source import Source
from soler1_jax.envs.tasks import TASKS
from soler1_jax.synthesis import thoughts

_THOUGHTS_PER_TASK = 20
# Kinds that a thought may lack.
_VERBLESS = ("wrong", "grasp", "object")


def corpus(data: Source | None = None, seed: int = 0) -> Iterator[str]:
    """Sentences, thoughts and, from a data set, its questions and answers.

    Args:
      data: a training data set; without it, the questions' words are missing.
      seed: draws thoughts and progress values.

    Yields:
      One text at a time, each as models read or write it.
    """
    rng = np.random.default_rng(seed)
    yield from thoughts.vocabulary()
    yield from (*COLORS[:-1], *SHAPES[:-1])
    for task in TASKS:
        if task.split != "train":
            continue
        for sentence in task.phrasings:
            yield text.progress_prompt(sentence)
            yield text.progress_prompt(sentence, int(rng.integers(-100, 101)))
        for _ in range(_THOUGHTS_PER_TASK):
            noun = task.shape or task.fixture or task.noun
            thought = thoughts.write(_some_claims(rng), task.verb, noun, rng)
            yield text.progress_completion(thought, int(rng.integers(-100, 101)))
    if data is not None:
        yield from _texts_of(data)


def _some_claims(rng: np.random.Generator) -> dict[str, str]:
    return {
        kind: values[rng.integers(len(values))]
        for kind, values in CLAIMS.items()
        if kind not in _VERBLESS or rng.random() < 0.5
    }


def _texts_of(data: Source) -> Iterator[str]:
    told: set[str] = set()
    for index in range(len(data)):
        episode = data[index]
        fresh = {q.prompt for q in episode.queries}
        fresh |= {q.completion for q in episode.queries}
        fresh |= {name for name in episode.names if name}
        yield from sorted(fresh - told)
        told |= fresh
