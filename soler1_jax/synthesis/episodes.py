"""From a recording to a record: sentences, thoughts, questions and their truth.

B worlds, T frames, S pixels a side, F facts. Runs on the host, in numpy.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from soler1_jax.data import text
from soler1_jax.data.records import Episode, Query
from soler1_jax.envs import fixtures, scene
from soler1_jax.envs.tasks import TASKS, Task
from soler1_jax.synthesis import claims, mistakes, questions, thoughts

# Beside one query a frame, so many with a longer gap between prev and cur.
LONG_GAPS = 6
MAX_GAP = 4
SPATIAL, TEMPORAL = 8, 6


class Recording(NamedTuple):
    """What a batch of rollouts leaves behind.

    Attributes:
      task: int32 [B], index into TASKS.
      level: int32 [B], 0 expert .. 6 random.
      external: uint8 [B,T,S,S,3].
      wrist: uint8 [B,T,S,S,3], or None.
      semantic: uint8 [B,T,S,S], classes of the external view's pixels.
      wrist_semantic: uint8 [B,T,S,S], of the wrist's, or None.
      facts: float32 [B,T,F], columns FACTS.
      other: int32 [B], another task with the same noun, or `task` again.
      other_facts: float32 [B,T,F], as judged by that task.
    """

    task: np.ndarray
    level: np.ndarray
    external: np.ndarray
    wrist: np.ndarray | None
    semantic: np.ndarray
    wrist_semantic: np.ndarray | None
    facts: np.ndarray
    other: np.ndarray
    other_facts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Labels:
    """Words and classes of one scene, for Episode's fields of the same names."""

    names: tuple[str, ...]
    named: int
    colors: np.ndarray
    shapes: np.ndarray


def assemble(
    recording: Recording,
    world: int,
    labels: Labels,
    *,
    name: str,
    stride: int,
    rng: np.random.Generator,
) -> Episode:
    """One world of a recording as a record with all its queries.

    Args:
      recording: a batch of rollouts, on the host.
      world: which of them.
      labels: words and classes of its scene.
      name: unique name of the record.
      stride: control steps between two frames.
      rng: chooses wordings, gaps and questions.
    """
    task = TASKS[int(recording.task[world])]
    bare = Episode(
        name=name,
        task=task.name,
        sentence=task.sentence,
        family=task.family,
        verb=task.verb,
        noun=task.noun,
        split=task.split,
        level=int(recording.level[world]),
        stride=stride,
        external=recording.external[world],
        wrist=_of(recording.wrist, world),
        semantic=recording.semantic[world],
        wrist_semantic=_of(recording.wrist_semantic, world),
        names=labels.names,
        named=labels.named,
        colors=labels.colors,
        shapes=labels.shapes,
        facts=recording.facts[world],
        queries=(),
    )
    asked = progress_queries(bare, task, rng)
    asked += questions.ask(bare, SPATIAL, "spatial", rng)
    asked += questions.ask(bare, TEMPORAL, "temporal", rng)
    return dataclasses.replace(bare, queries=tuple(asked))


def _of(views: np.ndarray | None, world: int) -> np.ndarray | None:
    return None if views is None else views[world]


def retell(
    episode: Episode, recording: Recording, world: int, rng: np.random.Generator
) -> Episode | None:
    """The same run told as if another task had been set.

    The picture and the noun are the same, so only the verb tells the two apart.

    Args:
      episode: what `assemble` made of this world.
      recording: a batch of rollouts, on the host.
      world: which of them.
      rng: chooses wordings and gaps.

    Returns:
      None if there is no other task, or it was as good as done at the start.
    """
    task = TASKS[int(recording.other[world])]
    if task.name == episode.task:
        return None
    if task.fixture is not None:
        joint = "slide" if task.fixture in fixtures.SLIDES else "hinge"
        start = float(episode.fact(joint)[0])
        undone = 1 - start if task.direction > 0 else start
        if undone < scene.MIDDLE_SHARE[0]:
            return None
    bare = dataclasses.replace(
        episode,
        name=f"{episode.name}-other",
        task=task.name,
        sentence=task.sentence,
        family=task.family,
        verb=task.verb,
        split=task.split,
        level=mistakes.OTHER_TASK,
        facts=recording.other_facts[world],
        queries=(),
    )
    return dataclasses.replace(bare, queries=tuple(progress_queries(bare, task, rng)))


def progress_queries(
    episode: Episode, task: Task, rng: np.random.Generator
) -> list[Query]:
    """One query for each frame after the first, then some with longer gaps."""
    frames = len(episode.facts)
    pairs = [(cur - 1, cur) for cur in range(1, frames)]
    far = [
        (cur - gap, cur) for gap in range(2, MAX_GAP + 1) for cur in range(gap, frames)
    ]
    if far:
        weights = np.array([rarity(episode, cur) for _, cur in far])
        chosen = rng.choice(
            len(far), min(LONG_GAPS, len(far)), replace=False, p=weights / weights.sum()
        )
        pairs += [far[i] for i in sorted(chosen)]
    return [_progress_query(episode, task, prev, cur, rng) for prev, cur in pairs]


def rarity(episode: Episode, cur: int) -> float:
    """Weight of a frame when extra queries are chosen.

    Runs dwell near 0 %, at the end of the reach (about 35) and at 100; what lies
    between and below is seen in passing and weighs more. So does a touch of the object
    that is not named: one frame in 25 has it.
    """
    progress = float(episode.progress[cur])
    astray = episode.fact("other_contact")[cur] + episode.fact("other_grasped")[cur]
    if astray > 0 or progress < -5:
        return 6.0
    if 40 <= progress < 95:
        return 5.0
    return 1.0


def _progress_query(
    episode: Episode, task: Task, prev: int, cur: int, rng: np.random.Generator
) -> Query:
    truth = claims.measure(episode.facts, task.verb, prev, cur)
    noun = task.shape or task.fixture or task.noun
    thought = thoughts.write(truth, task.verb, noun, rng)
    sentence = task.phrasings[rng.integers(len(task.phrasings))]
    progress = round(float(episode.progress[cur]))
    return Query(
        source="progress",
        first=0,
        prev=prev,
        cur=cur,
        prompt=text.progress_prompt(sentence),
        completion=text.progress_completion(thought, progress),
        progress=progress,
        previous=round(float(episode.progress[prev])),
        claims=truth,
    )
