"""From a data set to fixed-shape numpy batches, in a reproducible order.

E episodes a batch, T frames each, Q sampled queries each, P patches of a frame (those of
the wrist's view come after those of the external one), C = 8
classes, L prompt tokens, S completion tokens, N name tokens, K = 8 kinds of claim.
Every array is padded with zeros to the shapes of `BatchConfig`, so that a training
step compiles once.

    frames          uint8 [E,T,S,S,3]    external view
    wrist           uint8 [E,T,S,S,3]    only with `wrist_patch`
    classes         float32 [E,T,P,C]    share of each class in each patch
    colors, shapes  int32 [E,C]          of each class, indices of COLORS, SHAPES
    name_ids        int32 [E,C,N]        words for each class
    name_mask       bool [E,C,N]         all False: the class is absent or unnamed
    named           int32 [E]            class of the thing that the task names
    facts           float32 [E,T,F]      columns FACTS
    prompt_ids      int32 [E,Q,L]
    prompt_mask     bool [E,Q,L]
    completion_ids  int32 [E,Q,S]        ends in eos
    completion_mask bool [E,Q,S]
    shown           int32 [E,Q,3]        first, previous and current frame, >= 0
    shown_mask      bool [E,Q,3]         False: this frame is not shown
    progress        float32 [E,Q]        percent
    previous        float32 [E,Q]        percent, true progress at the previous frame
    source          int32 [E,Q]          index of SOURCES
    claims          int32 [E,Q,K]        index into CLAIMS' values, -1: no such claim
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.data import text
from soler1_jax.data.records import CLAIMS, CLASSES, SOURCES, Episode, Query

Batch = dict[str, np.ndarray]


class Encoder(Protocol):
    """What batches need of a tokenizer."""

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special ids at its ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Shapes and mixture of the batches.

    Attributes:
      episodes: E, episodes a batch.
      queries: Q, queries sampled of each episode, with replacement if it has fewer.
      prompt_length: L; a longer prompt is an error.
      completion_length: S; a longer completion is an error.
      name_length: N.
      patch: side in pixels of the patches of `classes`.
      wrist_patch: the same for the wrist's view; 0 leaves that view out.
      mix: weight of each source when queries are sampled.
      previous: how often the true previous progress is let into a progress prompt.
    """

    episodes: int = 8
    queries: int = 8
    prompt_length: int = 24
    completion_length: int = 40
    name_length: int = 6
    patch: int = 8
    wrist_patch: int = 0
    mix: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"progress": 1.0, "spatial": 0.0, "temporal": 0.0}
    )
    previous: float = 0.0

    def __post_init__(self) -> None:
        """Raises UserError for a size below one or an unknown source."""
        for name in ("episodes", "queries", "prompt_length", "completion_length"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} must be positive; got {getattr(self, name)}; give 1 or more"
                )
        unknown = set(self.mix) - set(SOURCES)
        if unknown or not sum(self.mix.values()) > 0 or min(self.mix.values()) < 0:
            raise UserError(
                f"a mix gives weights to {', '.join(SOURCES)}; got {dict(self.mix)}; "
                "give at least one positive weight"
            )


def dataset(
    source: Sequence[Episode], tokenizer: Encoder, config: BatchConfig, seed: int
) -> grain.MapDataset[Batch]:
    """Endless batches in an order that depends on the seed alone.

    `dataset(...)[step]` is the batch of a step, so a run that continues at a step
    sees what it would have seen; `.to_iter_dataset()` reads ahead in threads.

    Raises:
      UserError: a batch is larger than the data set.
    """
    if len(source) < config.episodes:
        raise UserError(
            f"a batch needs {config.episodes} episodes; the data set has {len(source)}; "
            "make more with `soler1 synth`, or use a smaller batch"
        )
    encode = _Encode(tokenizer, config)
    return (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(encode)
        .batch(config.episodes, drop_remainder=True)
    )


@dataclasses.dataclass(frozen=True)
class _Encode:
    """One episode -> one row of a batch; picklable for grain's workers."""

    tokenizer: Encoder
    config: BatchConfig

    def __call__(self, episode: Episode, rng: np.random.Generator) -> Batch:
        return encode_episode(episode, self.tokenizer, self.config, rng)


def encode_episode(
    episode: Episode, tokenizer: Encoder, config: BatchConfig, rng: np.random.Generator
) -> Batch:
    """One row of a batch: the arrays of the module docstring without E."""
    queries = _choose(episode.queries, config, rng)
    names = [tokenizer.encode(name) if name else [] for name in episode.names]
    prompts = [
        tokenizer.encode(_prompt(query, config.previous, rng)) for query in queries
    ]
    completions = [
        [*tokenizer.encode(query.completion), tokenizer.eos_id] for query in queries
    ]
    name_ids, name_mask = _pad(names, config.name_length, "a name")
    prompt_ids, prompt_mask = _pad(prompts, config.prompt_length, "a prompt")
    completion_ids, completion_mask = _pad(
        completions, config.completion_length, "a completion"
    )
    shown = np.array([(q.first, q.prev, q.cur) for q in queries], np.int32)
    row = {
        "frames": episode.external,
        "classes": _classes(episode, config),
        "colors": np.asarray(episode.colors, np.int32),
        "shapes": np.asarray(episode.shapes, np.int32),
        "name_ids": name_ids,
        "name_mask": name_mask,
        "named": np.int32(episode.named),
        "facts": episode.facts,
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "shown": np.maximum(shown, 0),
        "shown_mask": shown >= 0,
        "progress": np.array([q.progress for q in queries], np.float32),
        "previous": np.array([q.previous for q in queries], np.float32),
        "source": np.array([SOURCES.index(q.source) for q in queries], np.int32),
        "claims": np.stack([claim_indices(q) for q in queries]),
    }
    if config.wrist_patch:
        row["wrist"] = episode.wrist
    return row


def _classes(episode: Episode, config: BatchConfig) -> np.ndarray:
    """Shares of classes in the patches of both views, float32 [T,P,C]."""
    shares = patch_shares(episode.semantic, config.patch)
    if not config.wrist_patch:
        return shares
    if episode.wrist_semantic is None:
        raise UserError(
            "a model that looks through the wrist's camera is trained on that view; "
            f"episode {episode.name} has none; make the data without --no-wrist"
        )
    close = patch_shares(episode.wrist_semantic, config.wrist_patch)
    return np.concatenate([shares, close], axis=1)


def _choose(
    queries: tuple[Query, ...], config: BatchConfig, rng: np.random.Generator
) -> list[Query]:
    """Q queries; sources by weight, none twice while an episode has enough."""
    counts = {s: sum(q.source == s for q in queries) for s in SOURCES}
    weights = np.array(
        [config.mix.get(q.source, 0.0) / counts[q.source] for q in queries]
    )
    possible = int((weights > 0).sum())
    if possible == 0:
        raise UserError(
            f"an episode needs queries of the mix {dict(config.mix)}; one has only "
            f"{counts}; change the mix or make the data set again"
        )
    picked = rng.choice(
        len(queries),
        config.queries,
        replace=possible < config.queries,
        p=weights / weights.sum(),
    )
    return [queries[i] for i in picked]


def _prompt(query: Query, previous: float, rng: np.random.Generator) -> str:
    if query.source != "progress" or rng.random() >= previous:
        return query.prompt
    return text.progress_prompt(query.prompt, query.previous)


def _pad(
    rows: Sequence[Sequence[int]], length: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids -> zero-padded int32 [len(rows), length] and its mask."""
    longest = max(len(row) for row in rows)
    if longest > length:
        raise UserError(
            f"{what} must fit into {length} tokens; one has {longest}; "
            "raise the length in the batch settings"
        )
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def patch_shares(semantic: np.ndarray, patch: int) -> np.ndarray:
    """Share of each class in each square patch.

    Args:
      semantic: uint8 [T,S,S] of class indices.
      patch: side in pixels; must divide S.

    Returns:
      float32 [T,P,8], rows of patches from the top left; sums to 1 over classes.
    """
    frames, size = semantic.shape[:2]
    side = size // patch
    if side * patch != size:
        raise UserError(
            f"patches must tile the frame; {size} pixels are no multiple of {patch}; "
            "choose another patch size"
        )
    tiles = semantic.reshape(frames, side, patch, side, patch).swapaxes(2, 3)
    tiles = tiles.reshape(frames * side * side, patch * patch).astype(np.int64)
    offset = np.arange(len(tiles))[:, None] * len(CLASSES)
    counts = np.bincount((tiles + offset).ravel(), minlength=len(tiles) * len(CLASSES))
    shares = counts.reshape(frames, side * side, len(CLASSES)) / (patch * patch)
    return shares.astype(np.float32)


def claim_indices(query: Query) -> np.ndarray:
    """Claims of a thought as int32 [K], -1 where there is none (all of a question)."""
    indices = [-1] * len(CLAIMS)
    if query.source == "progress":
        for k, (kind, values) in enumerate(CLAIMS.items()):
            if kind in query.claims:
                indices[k] = values.index(query.claims[kind])
    return np.array(indices, np.int32)


def claims_of(indices: np.ndarray) -> dict[str, Any]:
    """The claims that `claim_indices` encoded, from int32 [K]."""
    return {
        kind: values[int(i)]
        for i, (kind, values) in zip(indices, CLAIMS.items(), strict=True)
        if i >= 0
    }
