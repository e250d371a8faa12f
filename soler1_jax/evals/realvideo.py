"""Scores video files, and compares the scores with a ground truth where there is one.

A video of T frames is sampled to N; the first is 0 by definition and not asked, the
other N - 1 are asked in order, and progress in between is interpolated linearly (the
reward of reinforcement learning is made the same way). Progress in percent.

A folder for `evaluate_folder` holds, for each video NAME.mp4:

    NAME.ground_truth.json  {"task description": str, "ground-truth rewards": [T]}
    NAME.OTHER.json         optional, [{"model": str, "rewards": [T]}]: another
                            rewarder's output on the same video, shown beside ours
                            (arXiv 2603.28730's code release has this form)
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.progress import Bar
from soler1_jax.common.rewarder import Rewarder, Verdict
from soler1_jax.common.run import read_json
from soler1_jax.data.video import Video, open_video
from soler1_jax.evals import metrics
from soler1_jax.evals.clips import Clip, read_clip
from soler1_jax.evals.rewarder import statement_of

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")
SOLVED = 100.0


class VideoScore(NamedTuple):
    """What a rewarder said of one video."""

    indices: np.ndarray  # int64 [N], sampled frames; the first is 0
    answers: np.ndarray  # float32 [N], progress at them; the first is 0
    expected: np.ndarray  # float32 [N], mean of each answer's distribution
    thoughts: list[str]  # N texts; the first is ""
    parsed: np.ndarray  # bool [N]; the first is True
    seconds: np.ndarray  # float64 [N - 1], wall time of each query, without compiling
    compile_seconds: float
    progress: np.ndarray  # float32 [T], interpolated to every frame
    # What else was read at each query, name -> float32 [N - 1].
    read: Mapping[str, np.ndarray] = {}


def interpolate(indices: np.ndarray, answers: np.ndarray, total: int) -> np.ndarray:
    """Progress of all `total` frames, float32: linear between queries, then flat."""
    return np.interp(np.arange(total), indices, answers).astype(np.float32)


def score_clips(
    rewarder: Rewarder,
    clips: Sequence[Clip],
    *,
    seed: int = 0,
    asked: Callable[[int], None] = lambda count: None,
) -> list[VideoScore]:
    """Asks a rewarder about several videos at once.

    Shorter clips are filled up with their last frame; what is said of that is dropped.
    Clips with frames of another size are asked about after each other.

    Args:
      rewarder: what to ask.
      clips: of `read_clip`, all with the same views.
      seed: of the rewarder's sampling.
      asked: called with the number of queries that have just been answered.

    Returns:
      A score for each. `seconds` are shared: those of the batch over its clips.

    Raises:
      UserError: the clips have different views, or one of them breaks off.
    """
    if len({tuple(clip.views) for clip in clips}) > 1:
        raise UserError(
            "videos that are scored together have the same views; got "
            f"{', '.join(sorted({'+'.join(c.views) for c in clips}))}; score them apart"
        )
    alike: dict[Any, list[int]] = {}
    for place, clip in enumerate(clips):
        shapes = tuple(frame.shape for frame in clip.views.values())
        alike.setdefault(shapes, []).append(place)
    scores: dict[int, VideoScore] = {}
    for places in alike.values():
        together = [clips[place] for place in places]
        found = _score_alike(rewarder, together, seed, asked)
        scores |= dict(zip(places, found, strict=True))
    return [scores[place] for place in range(len(clips))]


def _score_alike(
    rewarder: Rewarder,
    clips: list[Clip],
    seed: int,
    asked: Callable[[int], None],
) -> list[VideoScore]:
    """Scores of clips whose frames have one size."""
    if all(len(clip.indices) == 1 for clip in clips):
        return [_unasked(clip) for clip in clips]
    start, said, seconds, compile_seconds = _ask(rewarder, clips, seed, asked)
    return [
        _score(
            rewarder,
            clip,
            jax.tree.map(lambda x, b=b: x[b], start),
            jax.tree.map(lambda x, b=b: x[:, b], said),
            seconds,
        )._replace(compile_seconds=compile_seconds)
        if len(clip.indices) > 1
        else _unasked(clip)
        for b, clip in enumerate(clips)
    ]


def _unasked(clip: Clip) -> VideoScore:
    """The score of a video of one frame, which is 0 by definition."""
    zero = np.zeros(1, np.float32)
    return VideoScore(
        indices=clip.indices,
        answers=zero,
        expected=zero,
        thoughts=[""],
        parsed=np.ones(1, bool),
        seconds=np.zeros(0),
        compile_seconds=0.0,
        progress=zero,
    )


def score_video(
    rewarder: Rewarder, video: Video, sentence: str, *, seed: int = 0, **reading: Any
) -> VideoScore:
    """Asks a rewarder about one video; `reading` as for `read_clip`."""
    clip = read_clip(rewarder, video, sentence, **reading)
    return score_clips(rewarder, [clip], seed=seed)[0]


def _score(
    rewarder: Rewarder, clip: Clip, start: Any, said: Verdict, seconds: np.ndarray
) -> VideoScore:
    """What was said of one clip; `said` leads with the queries of the longest."""
    queries = len(clip.indices) - 1
    said = jax.tree.map(lambda x: x[:queries], said)
    progress, expected, read = said.progress, said.expected, {}
    if rewarder.settle is not None:
        progress = expected = rewarder.settle(start, said)
        read["log_likelihood"] = said.logprob
    if said.success is not None:
        read["success"] = said.success
    answers = np.concatenate([[0.0], progress]).astype(np.float32)
    return VideoScore(
        indices=clip.indices,
        answers=answers,
        expected=np.concatenate([[0.0], expected]).astype(np.float32),
        thoughts=["", *[statement_of(rewarder, row).thought for row in said.tokens]],
        parsed=np.concatenate([[True], said.parsed]).astype(bool),
        seconds=seconds[:queries],
        compile_seconds=0.0,
        progress=interpolate(clip.indices, answers, clip.total),
        read=read,
    )


@functools.cache
def _compiled(start: Any, score: Any) -> tuple[Any, Any]:
    """One pair of compiled functions a rewarder, for all its videos."""
    return jax.jit(start), jax.jit(score)


def _ask(
    rewarder: Rewarder,
    clips: list[Clip],
    seed: int,
    asked: Callable[[int], None],
) -> tuple[Any, Verdict, np.ndarray, float]:
    """State after the first frames, verdicts [count-1, B] of the later ones, seconds a
    clip, compile seconds."""
    start, score = _compiled(rewarder.start, rewarder.score)
    task = rewarder.prepare([clip.sentence for clip in clips])
    lengths = np.array([len(clip.indices) for clip in clips])
    keys = jax.random.split(jax.random.key(seed), lengths.max())
    shown = _lockstep(clips)

    began = time.monotonic()
    first = state = start(rewarder.params, next(shown), task, keys[0])
    verdicts, seconds = [], []
    for t, views in enumerate(shown, 1):
        if t == 1:
            jax.block_until_ready(score(rewarder.params, state, views, keys[1], None))
            compile_seconds = time.monotonic() - began
        began = time.monotonic()
        state, verdict = score(rewarder.params, state, views, keys[t], None)
        verdicts.append(jax.device_get(verdict))
        seconds.append((time.monotonic() - began) / len(clips))
        asked(int(np.sum(lengths > t)))
    said = jax.tree.map(lambda *x: np.stack(x), *verdicts)
    # What a rewarder remembers may be large; none but the settling ones are asked for it.
    first = None if rewarder.settle is None else jax.device_get(first)
    return first, said, np.array(seconds), compile_seconds


def _lockstep(clips: list[Clip]) -> Iterator[dict[str, np.ndarray]]:
    """The frames of all clips side by side, a clip's last one again until all are over."""
    streams = [clip.frames() for clip in clips]
    latest = [next(stream) for stream in streams]
    for _ in range(max(len(clip.indices) for clip in clips)):
        yield {view: np.stack([x[view] for x in latest]) for view in latest[0]}
        latest = [
            next(stream, before) for stream, before in zip(streams, latest, strict=True)
        ]


def score_json(score: VideoScore) -> dict[str, Any]:
    """A score as `soler1 reward` writes it."""
    asked = len(score.seconds) > 0
    read = [{name: None for name in score.read}]
    read += [
        {name: round(float(x[i]), 5) for name, x in score.read.items()}
        for i in range(len(score.seconds))
    ]
    return {
        "progress": [round(float(p), 3) for p in score.progress],
        "queries": [
            {
                "frame": int(frame),
                "progress": round(float(answer), 3),
                "expected": round(float(expected), 3),
                "thought": thought,
                "parsed": bool(parsed),
                "seconds": seconds and round(seconds, 6),
                **more,
            }
            for frame, answer, expected, thought, parsed, seconds, more in zip(
                score.indices,
                score.answers,
                score.expected,
                score.thoughts,
                score.parsed,
                [None, *score.seconds.tolist()],
                read,
                strict=True,
            )
        ],
        "parse_rate": float(score.parsed[1:].mean()) if asked else None,
        "seconds_per_query": float(np.median(score.seconds)) if asked else None,
        "compile_seconds": score.compile_seconds,
    }


def agreement(progress: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Pearson, Spearman, MAE of one video's frames [T] with its truth [T].

    A correlation with a constant is null.
    """
    figures = {
        "pearson": metrics.pearson(progress, truth),
        "spearman": metrics.spearman(progress, truth),
        "mae": metrics.mae(progress, truth),
        "last": float(progress[-1]),
        "highest": float(np.max(progress)),
    }
    return {k: None if np.isnan(v) else v for k, v in figures.items()}


def summary(curves: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, Any]:
    """Means over videos; a constant prediction correlates 0 (metrics.Within)."""
    solved = [bool(np.max(t) >= SOLVED) for t in truths]
    highest = [float(np.max(c)) for c in curves]
    area = metrics.auc(highest, solved)
    return {
        "videos": len(curves),
        "solved": sum(solved),
        "pearson": metrics.within_episodes(metrics.pearson, curves, truths).mean,
        "spearman": metrics.within_episodes(metrics.spearman, curves, truths).mean,
        "mae": metrics.mae(np.concatenate(curves), np.concatenate(truths)),
        "auc_highest": None if np.isnan(area) else area,
        "perceived_success": metrics.perceived_success(curves),
        "true_success": metrics.true_success(truths),
    }


def evaluate_folder(
    rewarder: Rewarder,
    folder: Path,
    *,
    layout: str,
    count: int,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, VideoScore]]:
    """Scores a folder's videos; layout of the folder in the module docstring.

    Returns:
      The content of `result.json`, and video name -> its score.

    Raises:
      UserError: no video with a ground truth, or one that does not fit its video.
    """
    folder = Path(folder)
    paths = _videos(folder)
    rows, scores = [], {}
    curves: dict[str, list[np.ndarray]] = {}
    truths: dict[str, list[np.ndarray]] = {}
    with Bar("videos", len(paths), "videos") as bar:
        for done, path in enumerate(paths, 1):
            truth_path = path.with_suffix(".ground_truth.json")
            sentence, truth = _truth(truth_path)
            video = open_video(path)
            _check_length(truth_path, truth, video.count)
            score = score_video(
                rewarder, video, sentence, layout=layout, count=count, seed=seed
            )
            scores[path.stem] = score
            row = {"video": path.stem, "file": path.name, "task": sentence}
            row["truth"] = truth.tolist()
            row |= {"solved": bool(truth.max() >= SOLVED), "by": {}}
            said = {rewarder.name: score.progress} | _others(path, video.count)
            for name, curve in said.items():
                row["by"][name] = agreement(curve, truth) | {"progress": curve.tolist()}
                curves.setdefault(name, []).append(curve)
                truths.setdefault(name, []).append(truth)
            row["queries"] = score_json(score)["queries"]
            rows.append(row)
            bar.update(done)
    result = {
        "rewarder": rewarder.name,
        "frames_shown": count,
        "layout": layout,
        "summary": {name: summary(curves[name], truths[name]) for name in curves},
        "videos": rows,
    }
    return result, scores


def _videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"a folder of videos is needed; {folder} is none; check it")
    paths = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in VIDEO_SUFFIXES
        and p.with_suffix(".ground_truth.json").exists()
    )
    if not paths:
        raise UserError(
            f"a video needs its truth beside it; {folder} has none of that kind; "
            "put NAME.ground_truth.json beside NAME.mp4"
        )
    return paths


def _truth(path: Path) -> tuple[str, np.ndarray]:
    value = read_json(path)
    try:
        truth = np.asarray(value["ground-truth rewards"], np.float32).reshape(-1)
        return str(value["task description"]), truth
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "a ground truth has 'task description' and 'ground-truth rewards'; "
            f"{path} does not fit ({error!r}); correct the file"
        ) from error


def _others(path: Path, frames: int) -> dict[str, np.ndarray]:
    """Outputs of other rewarders beside the video: model -> float32 [T]."""
    found = {}
    for other in sorted(path.parent.glob(f"{path.stem}.*.json")):
        if other.name.endswith(".ground_truth.json"):
            continue
        try:
            for row in read_json(other):
                curve = np.asarray(row["rewards"], np.float32)
                _check_length(other, curve, frames)
                found[str(row["model"])] = curve
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                "another rewarder's output is a list of {model, rewards}; "
                f"{other} does not fit ({error!r}); correct or remove it"
            ) from error
    return found


def _check_length(path: Path, values: np.ndarray, frames: int) -> None:
    if values.shape != (frames,):
        raise UserError(
            f"progress is given for each frame; {path} has {values.size} values, "
            f"the video {frames} frames; use the pair that belongs together"
        )
