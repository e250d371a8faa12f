"""Evaluates a rewarder on its own roll-outs over tasks it was never trained on.

Episodes come from synthesis with seeds of their own (`EVALUATION_SEED` onwards), so
that held-out episodes of trained tasks show scenes that no training run saw; unseen
tasks are in no training record at all. Beside the rewarder stand controls that
understand nothing:

    random   a random answer at each query
    time     progress by the clock, whatever happens
    frozen   the rewarder's first answer, repeated: what a model does that copies its
             previous value once it has one
    zero     the previous progress of the first frame, 0, repeated: the same copier
             from the start

E episodes, Q queries each; progress in percent.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soler1_jax.common.errors import require_non_negative
from soler1_jax.common.progress import Bar
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.data import source
from soler1_jax.data.records import Episode
from soler1_jax.data.video import letterbox
from soler1_jax.evals import metrics
from soler1_jax.evals.rollout import Rollout, roll_out
from soler1_jax.reward.parse import Statement, read
from soler1_jax.synthesis import claims

# Added to the user's seed; training data is made with small seeds.
EVALUATION_SEED = 770_000_000
SAMPLES = 50
# An episode moves if its true progress spans so many percent: one bin of the answer.
MOVING = 5.0
# An answer that is off by more percent is wrong, where doubt is judged.
WRONG_BY = 20.0
# Thoughts speak of these only if something is amiss.
SILENT_CLAIMS = ("wrong",)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Episodes of one split with what a rewarder said about them.

    Attributes:
      episodes: E records.
      rollout: the rewarder's answers.
      thoughts: E x Q texts, "" for rewarders without words.
      written: float32 [E, Q], the answers that the texts state, NaN where none. They
        differ from the roll-out's where another read-out is used.
      stated: E x Q claims read from the thoughts.
      truth: E x Q true claims.
    """

    episodes: Sequence[Episode]
    rollout: Rollout
    thoughts: list[list[str]]
    written: np.ndarray
    stated: list[list[dict[str, str]]]
    truth: list[list[dict[str, str]]]

    @property
    def true(self) -> np.ndarray:
        """True progress at the queries, float32 [E, Q]."""
        return true_progress(self.episodes)[:, 1:]


def true_progress(episodes: Sequence[Episode]) -> np.ndarray:
    """True progress of all frames, float32 [E, T]."""
    return np.stack([e.progress for e in episodes]).astype(np.float32)


def judge(
    rewarder: Rewarder,
    episodes: Sequence[Episode],
    *,
    seed: int,
    batch: int = 32,
    label: str = "eval",
) -> Judged:
    """Lets a rewarder watch episodes, and reads its thoughts.

    Raises:
      UserError: the rewarder needs a view that the episodes lack.
    """
    views = {
        view: np.stack(
            [letterbox(getattr(e, view), rewarder.image_size) for e in episodes]
        )
        for view in rewarder.views
        if all(getattr(e, view) is not None for e in episodes)
    }
    with Bar(f"{label} {rewarder.name}", len(episodes), "episodes") as bar:
        rollout = roll_out(
            rewarder,
            views,
            [e.sentence for e in episodes],
            true_progress(episodes),
            seed=seed,
            batch=batch,
            nudge=True,
            done=bar.update,
        )
    said = [[statement_of(rewarder, row) for row in rows] for rows in rollout.tokens]
    thoughts = [[one.thought for one in row] for row in said]
    stated = [[claims.extract(t) for t in row] for row in thoughts]
    truth = [
        [claims.measure(e.facts, e.verb, t - 1, t) for t in range(1, len(e.facts))]
        for e in episodes
    ]
    written = np.array([[one.progress for one in row] for row in said], np.float32)
    return Judged(episodes, rollout, thoughts, written, stated, truth)


def statement_of(rewarder: Rewarder, tokens: np.ndarray) -> Statement:
    """What one verdict's tokens [S] say; nothing for a rewarder without words."""
    if tokens.shape[-1] == 0 or not tokens.any():
        return Statement("", None)
    return read(rewarder.decode(tokens))


def summarise(predicted: np.ndarray, episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures that need only answers and truth.

    Args:
      predicted: float32 [E, Q], percent.
      episodes: E records.

    Returns:
      Names -> figures; for within-episode statistics a mapping that says how many
      episodes counted and how many were constant.
    """
    true = true_progress(episodes)[:, 1:]
    success = np.array([e.success for e in episodes])
    highest = np.maximum(predicted.max(1), 0.0)
    table: dict[str, Any] = {
        "episodes": len(episodes),
        "queries": predicted.size,
        "mae": metrics.mae(predicted, true),
    }
    for name in ("pearson", "spearman", "kendall_tau_a"):
        within = metrics.within_episodes(getattr(metrics, name), predicted, true)
        table[name] = within.mean
        table[f"{name}_episodes"] = within._asdict()
    moving = metrics.within_episodes(metrics.pearson, predicted, true, MOVING)
    table |= {
        "pearson_moving": moving.mean,
        "pearson_moving_episodes": moving._asdict(),
        "pearson_pooled": metrics.pearson(predicted, true),
        "voc_success": metrics.voc(predicted[success]).mean,
        "voc_failure": metrics.voc(predicted[~success]).mean,
        "auc_highest": metrics.auc(highest, success),
        "auc_last": metrics.auc(predicted[:, -1], success),
        "success_rate": float(success.mean()),
        "perceived_success": metrics.perceived_success(predicted),
        "true_success": metrics.true_success(true),
        "hack_rate": metrics.hack_rate(predicted, success),
    }
    return table


def report_split(judged: Judged) -> dict[str, Any]:
    """All figures of a rewarder on one split, per family, query and claim too."""
    rollout, episodes = judged.rollout, judged.episodes
    table = summarise(rollout.progress, episodes)
    table["readouts"] = {"expected value": summarise(rollout.expected, episodes)}
    if np.isfinite(judged.written).any():
        # A text without a number says that nothing was done.
        written = np.nan_to_num(judged.written)
        table["readouts"]["stated number"] = summarise(written, episodes)
    error = np.abs(rollout.progress - judged.true)
    table |= {
        "parse_rate": float(rollout.parsed.mean()),
        "error_by_query": error.mean(0).tolist(),
        "entropy_nats": float(rollout.entropy.mean()),
        "doubt": doubt(rollout.entropy, error),
        "queries_per_second": rollout.queries_per_second,
        "copy_slope": _copy_slope(rollout),
        "claims": _claims(judged, range(len(episodes))),
    }
    return (
        table
        | {"families": _grouped(judged, lambda e: e.family, _family)}
        | {"tasks": _grouped(judged, lambda e: e.task, _task)}
    )


def doubt(entropy: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Whether a rewarder's entropy tells which of its answers are wrong.

    Args:
      entropy: float32 [E, Q], nats, of the answers' distributions.
      error: float32 [E, Q], percent.

    Returns:
      "wrong", the share of answers that are off by more than WRONG_BY percent; "auc",
      how often a wrong answer has more entropy than another one (.5: entropy says
      nothing); "wrong_if_sure", the share of wrong ones in the surer half.
    """
    wrong = error.ravel() > WRONG_BY
    sure = entropy.ravel() <= np.median(entropy)
    return {
        "wrong": float(wrong.mean()),
        "auc": metrics.auc(entropy.ravel(), wrong),
        "wrong_if_sure": float(wrong[sure].mean()),
    }


def _copy_slope(rollout: Rollout) -> dict[str, Any]:
    nudged = rollout.nudged
    if nudged is None:
        return {"value": 0.0, "how": "by construction: never shown a previous value"}
    return {"value": metrics.copy_slope(*nudged), "how": "measured at +-40 percent"}


def _claims(judged: Judged, rows: Sequence[int] | range) -> dict[str, Any]:
    stated = [c for e in rows for c in judged.stated[e]]
    if not any(stated):
        return {}
    truth = [c for e in rows for c in judged.truth[e]]
    return metrics.claim_accuracy(stated, truth, SILENT_CLAIMS)


def _grouped(
    judged: Judged,
    key: Callable[[Episode], str],
    figures: Callable[[Judged, list[int]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[int]] = {}
    for index, episode in enumerate(judged.episodes):
        groups.setdefault(key(episode), []).append(index)
    return {name: figures(judged, rows) for name, rows in sorted(groups.items())}


def _family(judged: Judged, rows: list[int]) -> dict[str, Any]:
    table = summarise(judged.rollout.progress[rows], [judged.episodes[i] for i in rows])
    kinds = _claims(judged, rows).values()
    spoken = [k for k in kinds if k["due"] and k["stated"]]
    for name in ("accuracy", "majority"):
        table[f"claim_{name}"] = (
            float(np.mean([k[name] for k in spoken])) if spoken else float("nan")
        )
    return table


def _task(judged: Judged, rows: list[int]) -> dict[str, Any]:
    return {
        "family": judged.episodes[rows[0]].family,
        "episodes": len(rows),
        "perceived_success": metrics.perceived_success(judged.rollout.progress[rows]),
        "true_success": metrics.true_success(judged.true[rows]),
    }


def samples(judged: Judged, count: int, seed: int) -> list[dict[str, Any]]:
    """Thoughts drawn at random, each claim with whether it is true."""
    shape = judged.rollout.progress.shape
    if not any(t for row in judged.thoughts for t in row):
        return []
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.prod(shape), min(count, int(np.prod(shape))), replace=False)
    drawn = []
    for index in sorted(chosen):
        e, q = np.unravel_index(index, shape)
        episode, thought = judged.episodes[e], judged.thoughts[e][q]
        truth = judged.truth[e][q]
        drawn.append(
            {
                "episode": episode.name,
                "sentence": episode.sentence,
                "query": int(q) + 1,
                "thought": thought,
                "predicted": float(judged.rollout.progress[e, q]),
                "true": float(judged.true[e, q]),
                "claims": [
                    {
                        "kind": kind,
                        "said": said,
                        "truth": truth.get(kind),
                        "right": truth.get(kind) == said,
                    }
                    for kind, said in judged.stated[e][q].items()
                ],
            }
        )
    return drawn


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      result: the content of `result.json`.
      judged: split -> the rewarder's episodes and answers, for pictures.
    """

    result: dict[str, Any]
    judged: dict[str, Judged]


def evaluation_episodes(
    folder: Path, split: str, count: int, seed: int
) -> list[Episode]:
    """Makes, or reads again, the episodes of one split.

    Args:
      folder: where they are kept.
      split: "unseen", or "train" for held-out scenes of trained tasks.
      count: how many.
      seed: of the evaluation, 0 or more; never that of a training set.
    """
    # Brings the simulator, which judging stored episodes does without.
    from soler1_jax.synthesis import write

    require_non_negative("seed", seed)
    config = write.SynthConfig(episodes=count, seed=EVALUATION_SEED + seed, split=split)
    write.synthesise(folder, config)
    data = source.open_source(folder)
    return [data[i] for i in range(len(data))]


def evaluate(
    rewarder: Rewarder,
    controls: Mapping[str, Rewarder],
    episodes: Mapping[str, Sequence[Episode]],
    *,
    seed: int,
    batch: int = 32,
) -> Evaluation:
    """Judges a rewarder and its controls on every split.

    Args:
      rewarder: what is evaluated.
      controls: name -> rewarder to stand beside it; frozen and zero are added.
      episodes: split -> records.
      seed: of the rewarders' sampling and of the drawn thoughts.
      batch: episodes at once.
    """
    began = time.monotonic()
    judged, splits, table = {}, {}, {}
    for split, rows in episodes.items():
        judged[split] = judge(rewarder, rows, seed=seed, batch=batch, label=split)
        splits[split] = report_split(judged[split])
        answers = {
            name: judge(
                control, rows, seed=seed, batch=batch, label=split
            ).rollout.progress
            for name, control in controls.items()
        }
        own = judged[split].rollout.progress
        answers["frozen"] = np.repeat(own[:, :1], own.shape[1], axis=1)
        answers["zero"] = np.zeros_like(own)
        table[split] = {n: summarise(a, rows) for n, a in answers.items()}
    first = next(iter(episodes))
    headline = ("mae", "pearson", "pearson_moving", "spearman", "auc_highest")
    headline += ("parse_rate",)
    result = {
        "rewarder": rewarder.name,
        "seed": seed,
        "headline_split": first,
        **{name: splits[first][name] for name in headline},
        "copy_slope": splits[first]["copy_slope"]["value"],
        "copy_slope_how": splits[first]["copy_slope"]["how"],
        "queries_per_second": splits[first]["queries_per_second"],
        "splits": splits,
        "controls": table,
        "samples": samples(judged[first], SAMPLES, seed),
        "judging_seconds": time.monotonic() - began,
    }
    return Evaluation(_without_nan(result), judged)


def _without_nan(value: Any) -> Any:
    """The same tree with null for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
