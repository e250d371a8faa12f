"""Places for patches in a prompt: one pad token for each merged patch.

An image is a grid of 1 x h x w patches, a video of t x h x w, t counting pairs of
frames. Merging leaves h * w / merge_size^2 tokens of each of the t. A video of
Qwen3-VL becomes a row of pictures, each after the time in seconds at which it was
seen (arXiv 2511.21631, section on text-based time alignment).
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.tokenizers.qwen import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

Grid = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSlot:
    """What a prompt says of a video.

    Attributes:
      grid: t, h, w in patches.
      times: t moments in seconds.
    """

    grid: tuple[int, int, int]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) != self.grid[0]:
            raise UserError(
                "a video has a time for each temporal patch; got "
                f"{len(self.times)} for {self.grid[0]}; use patch_times"
            )


def patch_times(
    indices: Sequence[int] | np.ndarray, fps: float, temporal_patch_size: int = 2
) -> tuple[float, ...]:
    """The moment of each temporal patch: midway between its first and last frame.

    Args:
      indices: the shown frames' numbers in the source video, T, ascending.
      fps: frames a second of the source video.
      temporal_patch_size: frames in a patch; the last frame fills up the last patch.

    Returns:
      ceil(T / temporal_patch_size) times in seconds.
    """
    require_positive("fps", fps)
    seconds = [int(i) / fps for i in indices]
    if not seconds:
        raise UserError("a video has frames; got none; give one or more")
    seconds += seconds[-1:] * (-len(seconds) % temporal_patch_size)
    firsts, lasts = (
        seconds[::temporal_patch_size],
        seconds[temporal_patch_size - 1 :: temporal_patch_size],
    )
    return tuple((a + b) / 2 for a, b in zip(firsts, lasts, strict=True))


def token_count(grid: Grid, merge_size: int) -> int:
    """Tokens of a grid: t * h * w / merge_size^2; UserError if it does not divide."""
    t, h, w = (int(side) for side in grid)
    if h % merge_size or w % merge_size:
        raise UserError(
            f"a grid is in multiples of the merge size {merge_size}; got {h} x {w}; "
            "resize the picture to multiples of patch size times merge size"
        )
    return t * h * w // merge_size**2


def expand_slots(
    text: str,
    images: Sequence[Grid] = (),
    videos: Sequence[VideoSlot] = (),
    *,
    merge_size: int = 2,
    keep_video_wrapper: bool = True,
) -> str:
    """Makes room for the patches in a rendered conversation.

    Args:
      text: the prompt, one pad token for each image and video.
      images: grids in the order of the image pads, each (1, h, w).
      videos: the videos in the order of the video pads.
      merge_size: patches on the side of a token.
      keep_video_wrapper: leave the `<|vision_start|>` and `<|vision_end|>` that the
        template wrote around the whole video. transformers 5 does so; transformers
        4.57 and vLLM put the row of pictures in their place.

    Returns:
      The prompt with its final tokens.

    Raises:
      UserError: the text has more or fewer pads than there are images or videos.
    """
    for name, pad, given in (
        ("image", IMAGE_PAD, images),
        ("video", VIDEO_PAD, videos),
    ):
        if text.count(pad) != len(given):
            raise UserError(
                f"every {name} has one {pad} in the prompt; got {len(given)} for "
                f"{text.count(pad)}; give as many as the messages name"
            )
    wrapped = f"{VISION_START}{VIDEO_PAD}{VISION_END}"
    forms = [IMAGE_PAD, VIDEO_PAD]
    if not keep_video_wrapper:
        forms.insert(0, wrapped)
    # One pass, so that the pads of what was put in are not taken for slots.
    next_image, next_video = iter(images), iter(videos)

    def filled(match: re.Match[str]) -> str:
        if match[0] == IMAGE_PAD:
            return IMAGE_PAD * token_count(next(next_image), merge_size)
        return _video_text(next(next_video), merge_size)

    return re.sub("|".join(map(re.escape, forms)), filled, text)


def _video_text(video: VideoSlot, merge_size: int) -> str:
    pads = VIDEO_PAD * token_count((1, *video.grid[1:]), merge_size)
    picture = f"{VISION_START}{pads}{VISION_END}"
    return "".join(f"<{seconds:.1f} seconds>{picture}" for seconds in video.times)
