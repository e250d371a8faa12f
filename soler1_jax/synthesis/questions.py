"""Foundational questions about an episode, as queries (paper section 4).

Single-picture questions show one frame (`cur`), two-picture questions show two
(`prev`, then `cur`), sometimes the later one first. They teach where things are and
what has changed before progress is asked; they are not records of a task.
"""

from __future__ import annotations

import numpy as np

from soler1_jax.data import text
from soler1_jax.data.records import Episode, Query
from soler1_jax.synthesis import spatial, temporal
from soler1_jax.synthesis.look import Look, Question

# Some questions do not fit a frame (nothing to compare); give up after this many.
_TRIES = 8
_SWAPPED = 0.3


def ask(
    episode: Episode, count: int, source: str, rng: np.random.Generator
) -> list[Query]:
    """At most `count` different questions of one source about random frames.

    Args:
      episode: its `queries` are not looked at.
      count: how many are wanted.
      source: "spatial" (one picture) or "temporal" (two).
      rng: chooses frames, kinds and things.
    """
    queries: dict[tuple[int, int, str], Query] = {}
    for _ in range(count * _TRIES):
        if len(queries) == count:
            break
        frames = _frames(len(episode.facts), source, rng)
        question = _make(episode, source, frames, rng)
        if question is not None:
            query = _query(source, frames, question)
            queries.setdefault((query.prev, query.cur, query.prompt), query)
    return list(queries.values())


def _frames(count: int, source: str, rng: np.random.Generator) -> tuple[int, ...]:
    if source == "spatial":
        return (int(rng.integers(count)),)
    early, late = sorted(int(i) for i in rng.choice(count, 2, replace=False))
    return (late, early) if rng.random() < _SWAPPED else (early, late)


def _make(
    episode: Episode, source: str, frames: tuple[int, ...], rng: np.random.Generator
) -> Question | None:
    looks = [Look(episode, frame) for frame in frames]
    if source == "spatial":
        maker = spatial.MAKERS[rng.integers(len(spatial.MAKERS))]
        return maker(looks[0], rng)
    maker = temporal.MAKERS[rng.integers(len(temporal.MAKERS))]
    return maker(looks[0], looks[1], rng)


def _query(source: str, frames: tuple[int, ...], question: Question) -> Query:
    return Query(
        source=source,
        first=-1,
        prev=frames[0] if len(frames) == 2 else -1,
        cur=frames[-1],
        prompt=question.prompt,
        completion=text.completion(question.rationale, question.answer),
        progress=0,
        previous=0,
        claims={**question.truth, "answer": question.answer},
    )
