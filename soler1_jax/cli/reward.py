"""Score the progress shown in videos: files, picture folders, .npy, .npz or .hdf5 arrays.

The first frame is 0 by definition, so a video of one frame is not asked about. The rewarder is asked at later frames, chosen by
--count or --fps, and progress in between is interpolated. Each video gets a JSON file
with progress, thoughts and timing, and an mp4 with the curve and thoughts drawn in.
Videos are decoded as they are asked about, so their length does not matter.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from soler1_jax.cli.asking import Readout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 reward` scores."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Videos to score; FILE::DATASET for one dataset of an HDF5 file."""
    task: str
    """The task in words, such as "lift the red cube"."""
    out: Path
    """Folder for the results."""
    rewarder: str = "nano"
    """nano, a model's folder, the folder of a released Qwen3-VL rewarder, random or
    time."""
    readout: Readout | None = None
    """How a model's progress is read: glance by default, greedy for released models,
    which can be sampled too, or asked by likelihood, how likely they find the answer
    that the task is done. Models with read-out heads are read by these."""
    from_zero: bool = False
    """Ask a released model without the previous frame and progress."""
    views: str = "external"
    """How a frame holds the cameras: external, wrist, or both-split (left half
    external, right half wrist)."""
    wrist: tuple[Path, ...] = ()
    """The wrist camera's videos, one for each video, which then are external."""
    fps: float | None = None
    """Frames a second to show to the rewarder."""
    count: int | None = None
    """Frames to show, evenly spread, the first one included; 9 if --fps is not given,
    as in the training of nano."""
    seed: int = 0
    """Of the rewarder's sampling."""
    batch: int = 8
    """Videos scored at once."""
    overlay: bool = True
    """Write the mp4 too."""


# Frames of an episode that nano was trained on.
_DEFAULT_COUNT = 9
# Playback of frames that come without a rate.
_DEFAULT_FPS = 5.0


def run(args: Args) -> None:
    """Scores every video; prints one line for each."""
    from soler1_jax.cli.asking import video_rewarder
    from soler1_jax.common import compile_cache
    from soler1_jax.common.errors import (
        UserError,
        require_non_negative,
        require_positive,
    )
    from soler1_jax.common.progress import Bar
    from soler1_jax.common.run import command_line, environment, write_json
    from soler1_jax.data.video import open_video, sample

    if not args.videos:
        raise UserError("a video is needed; got none; give one or more paths")
    if args.wrist and (len(args.wrist) != len(args.videos) or args.views != "external"):
        raise UserError(
            "every external video has its wrist video; got "
            f"{len(args.wrist)} for {len(args.videos)} and --views {args.views}; give "
            "as many, and no --views"
        )
    require_non_negative("seed", args.seed)
    require_positive("batch", args.batch)
    names = _names(args.videos)
    opened = [open_video(path) for path in args.videos]
    wrists = [open_video(path) for path in args.wrist] or [None] * len(opened)
    frames = _frames(args)
    queries = sum(len(sample(v.count, v.fps, **frames)) - 1 for v in opened)
    compile_cache.enable()
    both = args.wrist or args.views == "both-split"
    rewarder = video_rewarder(
        args.rewarder,
        args.readout,
        "both" if both else args.views,
        from_zero=args.from_zero,
    )
    rows: dict[str, Any] = {}
    with Bar("reward", queries, "queries") as bar:
        for start in range(0, len(opened), args.batch):
            part = slice(start, start + args.batch)
            rows |= _score(args, rewarder, opened[part], wrists[part], names[part], bar)
    result = {"command": command_line(), "task": args.task, "rewarder": rewarder.name}
    write_json(
        args.out / "result.json",
        result | {"environment": environment(), "videos": rows},
    )


def _frames(args: Args) -> dict[str, Any]:
    """Which frames are shown: arguments of `data.video.sample`."""
    count = args.count
    if args.fps is None and count is None:
        count = _DEFAULT_COUNT
    return {"fps": args.fps, "count": count}


def _warn(args: Args, videos: list[Any], wrists: list[Any]) -> None:
    """Says on standard error what may not be as the user thinks."""
    import sys

    from soler1_jax.evals.clips import doubts

    for video, wrist in zip(videos, wrists, strict=True):
        if video.count == 1:
            print(
                f"note: {video.path} has one frame, whose progress is 0 by definition; "
                "nothing is asked about it",
                file=sys.stderr,
            )
        if found := doubts(video, args.views, wrist):
            print(f"note: {found}", file=sys.stderr)


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Distinct file names for the outputs of the videos."""
    names: list[str] = []
    for path in paths:
        name, number = path.resolve().stem, 2
        while name in names:
            name, number = f"{path.resolve().stem}-{number}", number + 1
        names.append(name)
    return names


def _score(
    args: Args,
    rewarder: Any,
    videos: list[Any],
    wrists: list[Any],
    names: list[str],
    bar: Any,
) -> dict[str, Any]:
    """Scores and draws videos; returns their entries in `result.json`."""
    from soler1_jax.evals.clips import read_clip
    from soler1_jax.evals.realvideo import score_clips

    clips = [
        read_clip(
            rewarder,
            video,
            args.task,
            layout=args.views,
            wrist=wrist,
            **_frames(args),
        )
        for video, wrist in zip(videos, wrists, strict=True)
    ]
    _warn(args, videos, wrists)
    scores = score_clips(
        rewarder,
        clips,
        seed=args.seed,
        asked=lambda count: bar.update(bar.done + count),
    )
    return {
        name: _write(args, video, score, name)
        for video, score, name in zip(videos, scores, names, strict=True)
    }


def _write(args: Args, video: Any, score: Any, name: str) -> dict[str, Any]:
    """Writes one video's files; returns its entry in `result.json`."""
    from soler1_jax.common.run import write_json
    from soler1_jax.evals.realvideo import score_json
    from soler1_jax.viz.overlay import Overlay, draw
    from soler1_jax.viz.video import write_mp4

    row = {"video": str(video.path), "task": args.task, "frames": video.count}
    row |= {"fps": video.fps, "views": args.views} | score_json(score)
    write_json(args.out / f"{name}.json", row)
    if args.overlay:
        overlay = Overlay(score.progress, score.indices, score.thoughts, args.task)
        path = args.out / f"{name}.mp4"
        write_mp4(path, draw(video.frames(), overlay), video.fps or _DEFAULT_FPS)
    each = row["seconds_per_query"]
    speed = "" if each is None else f", {1000 * each:.1f} ms each"
    print(
        f"{video.path}: {len(score.seconds)} queries{speed}; progress at the end "
        f"{score.progress[-1]:.0f} %, highest {score.progress.max():.0f} %"
    )
    return {k: v for k, v in row.items() if k not in ("progress", "queries")} | {
        "last": float(score.progress[-1]),
        "highest": float(score.progress.max()),
    }
