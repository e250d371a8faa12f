"""How good a model is while it trains: its own answers on episodes it never saw.

Prompts hide the previous progress, so the answers of an episode depend on its frames
alone and all its queries can be asked at once. E episodes, Q queries of each, T
frames, S tokens; progress in percent. `soler1 eval rewarder` measures far more.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from soler1_jax.common.rewarder import bin_centers
from soler1_jax.data import batches, text
from soler1_jax.data.records import Episode
from soler1_jax.sampling.grammar import Grammar
from soler1_jax.sampling.loop import generate
from soler1_jax.synthesis import claims
from soler1_jax.training.sft import ask, look


@dataclasses.dataclass(frozen=True)
class Exam:
    """Encoded questions and their truth.

    Attributes:
      batches: of data/batches.py, equal in shape; the last one may repeat episodes.
      progress: float32 [E,Q], truth.
      claims: E x Q true claims.
    """

    batches: list[batches.Batch]
    progress: np.ndarray
    claims: list[list[dict[str, str]]]


def make_exam(
    episodes: Sequence[Episode],
    tokenizer: batches.Encoder,
    config: batches.BatchConfig,
    size: int,
) -> Exam:
    """Encodes the query of every frame after the first.

    Args:
      episodes: E records.
      tokenizer: of the model.
      config: lengths and patch size; its mixture does not matter.
      size: episodes a batch.
    """
    size = min(size, len(episodes))
    rows = [_row(episode, tokenizer, config) for episode in episodes]
    filled = [rows[i % len(rows)] for i in range(-(-len(rows) // size) * size)]
    parts = [filled[i : i + size] for i in range(0, len(filled), size)]
    stacked = [{k: np.stack([r[k] for r in part]) for k in part[0]} for part in parts]
    truth = np.stack([row["progress"] for row in rows])
    stated = [[batches.claims_of(c) for c in row["claims"]] for row in rows]
    return Exam(stacked, truth, stated)


def _row(
    episode: Episode, tokenizer: batches.Encoder, config: batches.BatchConfig
) -> batches.Batch:
    asked = [q for q in episode.queries if q.source == "progress"]
    asked = [q for q in asked if q.prev == q.cur - 1]
    config = dataclasses.replace(
        config, queries=len(asked), mix={"progress": 1.0}, previous=0.0
    )
    only = dataclasses.replace(episode, queries=tuple(asked))
    return batches.encode_episode(only, tokenizer, config, np.random.default_rng(0))


def make_answer(
    bind: Callable[[Any], Any], grammar: Grammar
) -> Callable[[Any, Mapping[str, Any]], dict[str, jax.Array]]:
    """Returns a jitted (params, batch) -> what the model says of each query.

    Args:
      bind: parameters -> model.
      grammar: what may be written. Decoding is greedy, so figures can be repeated.

    Returns:
      A function whose result has "tokens" int32 [E*Q,S] and, float32 [E*Q] in
      percent, "progress" as written, "expected" of the bins at the answer, "glance" of
      the bins before the thought, "state" by the state head.
    """

    def answer(params: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        model = bind(params)
        prefix, _ = ask(model, look(model, batch), batch)
        said = generate(model, prefix, jax.random.key(0), grammar=grammar)
        bins = jax.nn.softmax(said.value_logits) @ bin_centers()
        glance = jax.nn.softmax(said.glance_logits) @ bin_centers()
        return {
            "tokens": said.tokens,
            "progress": said.progress,
            "expected": bins,
            "glance": glance,
            "state": 100 * said.state[:, -1],
        }

    return jax.jit(answer)


def examine(
    answer: Callable[[Any, Mapping[str, Any]], dict[str, jax.Array]],
    params: Any,
    exam: Exam,
    decode: Callable[[Any], str],
) -> dict[str, float]:
    """Asks everything and compares with the truth.

    Returns:
      "mae" and "pearson" (within episodes, mean) of the answers; the same with
      suffix "_expected" for the mean of the bins, "_glance" for the same before the
      thought, "_state" for the state head;
      "claims", the share of true claims that the thoughts state rightly.
    """
    said = [jax.device_get(answer(params, batch)) for batch in exam.batches]
    count, queries = exam.progress.shape

    def of(name: str) -> np.ndarray:
        values = np.concatenate([part[name] for part in said])
        return values.reshape(-1, queries, *values.shape[1:])[:count]

    result = {}
    for name in ("progress", "expected", "glance", "state"):
        suffix = "" if name == "progress" else f"_{name}"
        result[f"mae{suffix}"] = float(np.abs(of(name) - exam.progress).mean())
        result[f"pearson{suffix}"] = _within(of(name), exam.progress)
    right, stated = 0, 0
    for tokens, truth in zip(of("tokens"), exam.claims, strict=True):
        for row, true in zip(tokens, truth, strict=True):
            verdicts = claims.check(_thought(decode(row)), true)
            right += sum(verdicts.get(kind, False) for kind in true)
            stated += len(true)
    return result | {"claims": right / max(stated, 1)}


def _thought(said: str) -> str:
    parts = text.split_completion(said)
    return parts[0] if parts else said


def _within(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean Pearson's r over episodes; 0 for a constant answer to a changing truth."""
    moving = true[true.std(1) > 0], predicted[true.std(1) > 0]
    if not len(moving[0]):
        return float("nan")
    t, p = (x - x.mean(1, keepdims=True) for x in moving)
    scale = np.sqrt((t**2).sum(1) * (p**2).sum(1))
    return float(((t * p).sum(1) / np.maximum(scale, 1e-9)).mean())
