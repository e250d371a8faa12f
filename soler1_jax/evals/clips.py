"""What a rewarder is shown of a video: frames of one or two cameras, one at a time.

Frames are decoded when they are needed, so the longest video takes the memory of a few.
N frames shown of T.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.data.video import Video, letterbox, sample, split_views
from soler1_jax.evals.rollout import check_views

# Clocks of two recorders of one episode differ by less.
_RATE_TOLERANCE = 0.02


class Clip(NamedTuple):
    """The frames of one video that a rewarder is shown.

    Attributes:
      frames: makes an iterator over N frames: view -> uint8 [H, W, 3]; empty mappings for
        rewarders that look at nothing.
      views: the first of them.
      indices: int64 [N], where they are in the video; the first is 0.
      total: T, frames of the video.
      sentence: the task in words.
    """

    frames: Callable[[], Iterator[dict[str, np.ndarray]]]
    views: dict[str, np.ndarray]
    indices: np.ndarray
    total: int
    sentence: str


def read_clip(
    rewarder: Rewarder,
    video: Video,
    sentence: str,
    *,
    layout: str = "external",
    wrist: Video | None = None,
    fps: float | None = None,
    count: int | None = None,
) -> Clip:
    """Says what a rewarder is to be shown of a video; decodes its first frame only.

    Args:
      rewarder: who will be asked; not one that needs the true progress.
      video: from `open_video`.
      sentence: the task in words.
      layout: how frames hold the views, one of data/video.py's LAYOUTS.
      wrist: the same episode as the wrist's camera saw it, if it is a file of its own.
      fps: frames a second to show, or
      count: number of frames to show, the first one included.

    Raises:
      UserError: an empty task, an unknown layout, a view that the rewarder needs and
        the video lacks, an unreadable video, two views that cannot be of one episode.
    """
    if not sentence.strip():
        raise UserError("a task in words is needed; got none; give --task 'lift it'")
    if rewarder.uses_truth:
        raise UserError(
            f"a video has no true progress; rewarder {rewarder.name} needs it; "
            "choose a rewarder that looks at pixels"
        )
    indices = sample(video.count, video.fps, fps, count)
    if wrist is not None:
        _check_pair(video, wrist)

    def frames() -> Iterator[dict[str, np.ndarray]]:
        others = iter(()) if wrist is None else wrist.pick(indices)
        for frame in video.pick(indices):
            views = split_views(frame, layout)
            if wrist is not None:
                views["wrist"] = next(others)
            yield _shown(rewarder, views)

    return Clip(frames, next(frames()), indices, video.count, sentence)


def doubts(video: Video, layout: str, wrist: Video | None = None) -> str | None:
    """What about a video's cameras looks like a mistake; None if nothing does."""
    height, width = next(video.frames()).shape[:2]
    if layout != "both-split" and wrist is None and width == 2 * height:
        return (
            f"{video.path} is twice as wide as high, {width}x{height}, and taken for one "
            f"picture of the {layout} camera; if it is two side by side, give --views "
            "both-split"
        )
    if layout == "both-split" and width <= height:
        return (
            f"{video.path} is split into halves of {width // 2}x{height}; if it is one "
            "camera's picture, give --views external or wrist"
        )
    return None


def _shown(rewarder: Rewarder, views: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The views that a rewarder looks through, as it takes them."""
    used = {name: x for name, x in views.items() if name in rewarder.views}
    if rewarder.fit is not None:
        used = {name: rewarder.fit(x) for name, x in used.items()}
    elif rewarder.image_size:
        used = {name: letterbox(x, rewarder.image_size) for name, x in used.items()}
    return check_views(rewarder, used)


def _check_pair(video: Video, wrist: Video) -> None:
    """Raises UserError where two files cannot be two views of one episode."""
    if wrist.count != video.count:
        raise UserError(
            f"two views of one episode are equally long; {video.path} has "
            f"{video.count} frames, {wrist.path} {wrist.count}; give the pair that "
            "belongs together"
        )
    if video.fps and wrist.fps:
        if abs(wrist.fps / video.fps - 1) > _RATE_TOLERANCE:
            raise UserError(
                "two views of one episode have one rate; "
                f"{video.path} has {video.fps:.4g} frames a second, {wrist.path} "
                f"{wrist.fps:.4g}; give the pair that belongs together"
            )
    same = _place(video) == _place(wrist)
    if same or np.array_equal(next(video.frames()), next(wrist.frames())):
        raise UserError(
            f"two views show different pictures; {wrist.path} begins with that of "
            f"{video.path}; give the wrist camera's video with --wrist"
        )


def _place(video: Video) -> Path:
    return video.path.resolve()
