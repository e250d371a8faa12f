"""Score the progress shown in videos: files, picture folders, .npy, .npz or .hdf5 arrays.

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
    """nano, a model's folder, the folder of a released Qwen3-VL rewarder, random or
    time."""
    readout: Literal["greedy", "sampled", "expected", "glance"] | None = None
    """How a model's progress is read: glance by default, greedy for released models,
    which can be sampled too."""
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
    from soler1_jax.common import compile_cache
    from soler1_jax.common.errors import (
        UserError,
        require_non_negative,
        require_positive,
    )
    from soler1_jax.common.run import command_line, environment, write_json
    from soler1_jax.data.video import open_video

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
    compile_cache.enable()
    rewarder = _rewarder(args)
    rows: dict[str, Any] = {}
    for start in range(0, len(opened), args.batch):
        part = slice(start, start + args.batch)
        rows |= _score(args, rewarder, opened[part], wrists[part], names[part])
    result = {"command": command_line(), "task": args.task, "rewarder": rewarder.name}
    write_json(
        args.out / "result.json",
        result | {"environment": environment(), "videos": rows},
    )


def _rewarder(args: Args) -> Any:
    """The rewarder, asked as the videos and options allow."""
    from soler1_jax.common.errors import UserError
    from soler1_jax.reward.load import is_released, load_rewarder
    from soler1_jax.reward.vlm import VLMSettings

    if not is_released(Path(args.rewarder)):
        if args.from_zero:
            raise UserError(
                "released models alone can be asked from zero; got --rewarder "
                f"{args.rewarder}; leave --from-zero out"
            )
        settings = VLMSettings(readout=args.readout or "glance")
        return load_rewarder(args.rewarder, settings)
    from soler1_jax.reward.sole import RELEASED_METHOD, SoleSettings
    from soler1_jax.sampling.methods import GREEDY

    methods = {None: GREEDY, "greedy": GREEDY, "sampled": RELEASED_METHOD}
    if args.readout not in methods:
        raise UserError(
            "a released model's number is read from its text; got --readout "
            f"{args.readout}; use greedy or sampled"
        )
    both = args.wrist or args.views == "both-split"
    settings = SoleSettings(
        views="external_and_wrist" if both else args.views,
        from_zero=args.from_zero,
        method=methods[args.readout],
    )
    return load_rewarder(args.rewarder, released=settings)


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
) -> dict[str, Any]:
    """Scores and draws videos; returns their entries in `result.json`."""
    from soler1_jax.evals.realvideo import read_clip, score_clips

    count = args.count
    if args.fps is None and count is None:
        count = _DEFAULT_COUNT
    clips = [
        read_clip(
            rewarder,
            video,
            args.task,
            layout=args.views,
            wrist=wrist,
            fps=args.fps,
            count=count,
        )
        for video, wrist in zip(videos, wrists, strict=True)
    ]
    scores = score_clips(rewarder, clips, seed=args.seed)
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
    print(
        f"{video.path}: {len(score.seconds)} queries, "
        f"{1000 * row['seconds_per_query']:.1f} ms each; progress at the end "
        f"{score.progress[-1]:.0f} %, highest {score.progress.max():.0f} %"
    )
    return {k: v for k, v in row.items() if k not in ("progress", "queries")} | {
        "last": float(score.progress[-1]),
        "highest": float(score.progress.max()),
    }
