"""Score the progress shown in videos: files, picture folders, .npy or .npz arrays.

The first frame is 0 by definition. The rewarder is asked at later frames, chosen by
--count or --fps, and progress in between is interpolated. Each video gets a JSON file
with progress, thoughts and timing, and an mp4 with the curve and thoughts drawn in.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 reward` scores."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Videos to score."""
    task: str
    """The task in words, such as "lift the red cube"."""
    out: Path
    """Folder for the results."""
    rewarder: str = "nano"
    """nano, a model's folder, random or time."""
    readout: Literal["greedy", "sampled", "expected", "glance"] = "glance"
    """How a model's progress is read."""
    views: str = "external"
    """How a frame holds the cameras: external, wrist, or both-split (left half
    external, right half wrist)."""
    fps: float | None = None
    """Frames a second to show to the rewarder."""
    count: int | None = None
    """Frames to show, evenly spread, the first one included; 9 if --fps is not given,
    as in the training of nano."""
    seed: int = 0
    """Of the rewarder's sampling."""
    overlay: bool = True
    """Write the mp4 too."""


# Frames of an episode that nano was trained on.
_DEFAULT_COUNT = 9
# Playback of frames that come without a rate.
_DEFAULT_FPS = 5.0


def run(args: Args) -> None:
    """Scores every video; prints one line for each."""
    from soler1_jax.common import compile_cache
    from soler1_jax.common.errors import UserError, require_non_negative
    from soler1_jax.common.run import command_line, environment, write_json
    from soler1_jax.data.video import open_video
    from soler1_jax.reward.load import load_rewarder
    from soler1_jax.reward.vlm import VLMSettings

    if not args.videos:
        raise UserError("a video is needed; got none; give one or more paths")
    require_non_negative("seed", args.seed)
    count = args.count
    if args.fps is None and count is None:
        count = _DEFAULT_COUNT
    names = _names(args.videos)
    opened = [open_video(path) for path in args.videos]
    compile_cache.enable()
    rewarder = load_rewarder(args.rewarder, VLMSettings(readout=args.readout))
    rows = {}
    for name, video in zip(names, opened, strict=True):
        rows[name] = _score(args, rewarder, video, name, count)
    result = {"command": command_line(), "task": args.task, "rewarder": rewarder.name}
    write_json(
        args.out / "result.json",
        result | {"environment": environment(), "videos": rows},
    )


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
    args: Args, rewarder: Any, video: Any, name: str, count: int | None
) -> dict[str, Any]:
    """Scores and draws one video; returns its entry in `result.json`."""
    from soler1_jax.common.run import write_json
    from soler1_jax.evals.realvideo import score_json, score_video
    from soler1_jax.viz.overlay import Overlay, draw
    from soler1_jax.viz.video import write_mp4

    score = score_video(
        rewarder,
        video,
        args.task,
        layout=args.views,
        fps=args.fps,
        count=count,
        seed=args.seed,
    )
    row = {"video": str(video.path), "task": args.task, "frames": video.count}
    row |= {"fps": video.fps, "views": args.views} | score_json(score)
    write_json(args.out / f"{name}.json", row)
    if args.overlay:
        overlay = Overlay(score.progress, score.indices, score.thoughts, args.task)
        path = args.out / f"{name}.mp4"
        write_mp4(path, draw(video.frames(), overlay), video.fps or _DEFAULT_FPS)
    print(
        f"{video.path}: {len(score.seconds)} queries, "
        f"{1000 * row['seconds_per_query']:.1f} ms each; progress at the end "
        f"{score.progress[-1]:.0f} %, highest {score.progress.max():.0f} %"
    )
    return {k: v for k, v in row.items() if k not in ("progress", "queries")} | {
        "last": float(score.progress[-1]),
        "highest": float(score.progress.max()),
    }
