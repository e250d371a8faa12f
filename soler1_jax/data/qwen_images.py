"""Images and videos as a Qwen vision tower takes them, on the host and in jit.

The host functions take pictures of any size, one after the other. Their twins
`..._on_device` take uint8 frames that are on the accelerator already, of one size
known when traced, any number at once, and give the same numbers. See `patches` for
sizes and order, `resize` for exactness.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.data import patches
from soler1_jax.data.patches import PatchConfig, VideoConfig
from soler1_jax.data.resize import resize, resize_on_device

Grid = tuple[int, int, int]
# Exif's tag, whose values from 5 on turn a picture on its side.
_ORIENTATION, _FIRST_TURNED = 0x0112, 5


def read_image(path: str | Path) -> np.ndarray:
    """Reads a picture upright: uint8 [H, W, 3]; UserError if it cannot be."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"a picture must be readable; {path} is not ({error}); give a png or jpeg"
        ) from error


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture as `read_image` gives it, without its pixels."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            width, height = picture.size
            return (width, height) if turned else (height, width)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"a picture must be readable; {path} is not ({error}); give a png or jpeg"
        ) from error


def image_grid(height: int, width: int, config: PatchConfig) -> Grid:
    """Patches of an image of height x width pixels: (1, h, w)."""
    new_height, new_width = patches.image_size(height, width, config)
    return 1, new_height // config.patch_size, new_width // config.patch_size


def video_grid(count: int, height: int, width: int, config: VideoConfig) -> Grid:
    """Patches of `count` frames of height x width pixels: (t, h, w)."""
    new_height, new_width = patches.video_size(count, height, width, config)
    return (
        -(-count // config.temporal_patch_size),
        new_height // config.patch_size,
        new_width // config.patch_size,
    )


def image_patches(
    images: Sequence[np.ndarray], config: PatchConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts images on the host.

    Args:
      images: I pictures, uint8 [H, W, 3] of any sizes.
      config: sizes and colours.

    Returns:
      float32 [sum of N, D] and grids int32 [I, 3].

    Raises:
      UserError: a picture is not uint8 RGB, or its sides are too unequal.
    """
    rows, grids = [np.zeros((0, config.patch_dim), np.float32)], []
    for image in images:
        image = _checked(np.asarray(image), 3)
        size = patches.image_size(*image.shape[:2], config)
        small = resize(image, *size, config.arithmetic)
        rows.append(patches.cut(patches.normalise(small, config)[None], config))
        grids.append(image_grid(*image.shape[:2], config))
    return np.concatenate(rows), np.array(grids, np.int32).reshape(-1, 3)


def video_patches(
    videos: Sequence[np.ndarray], config: VideoConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts videos on the host; `sample_frames` says which frames to give.

    Args:
      videos: V videos, uint8 [T, H, W, 3] of any sizes and lengths.
      config: sizes and colours.

    Returns:
      float32 [sum of N, D] and grids int32 [V, 3].

    Raises:
      UserError: a video is not uint8 RGB, too short, or its sides are too unequal.
    """
    rows, grids = [np.zeros((0, config.patch_dim), np.float32)], []
    for frames in videos:
        frames = _checked(np.asarray(frames), 4)
        size = patches.video_size(*frames.shape[:3], config)
        small = resize(frames, *size, config.arithmetic)
        rows.append(patches.cut(patches.normalise(small, config), config))
        grids.append(video_grid(*frames.shape[:3], config))
    return np.concatenate(rows), np.array(grids, np.int32).reshape(-1, 3)


def image_patches_on_device(images: jax.Array, config: PatchConfig) -> jax.Array:
    """Cuts images inside jit.

    Args:
      images: uint8 [..., H, W, 3]; `image_grid(H, W, config)` is the grid of each.
      config: sizes and colours, static.

    Returns:
      float32 [..., N, D].
    """
    _checked(images, 3)
    size = patches.image_size(*images.shape[-3:-1], config)
    small = resize_on_device(images, *size, config.arithmetic)
    return patches.cut(patches.normalise(small, config)[..., None, :, :, :], config)


def video_patches_on_device(videos: jax.Array, config: VideoConfig) -> jax.Array:
    """Cuts videos inside jit.

    Args:
      videos: uint8 [..., T, H, W, 3]; `video_grid(T, H, W, config)` is the grid of each.
      config: sizes and colours, static.

    Returns:
      float32 [..., N, D].
    """
    _checked(videos, 4)
    size = patches.video_size(*videos.shape[-4:-1], config)
    small = resize_on_device(videos, *size, config.arithmetic)
    return patches.cut(patches.normalise(small, config), config)


def sample_frames(
    total: int,
    source_fps: float,
    config: VideoConfig,
    *,
    fps: float | None = None,
    count: int | None = None,
) -> np.ndarray:
    """Chooses the frames of a video that the model is shown.

    By rate: as many as the duration has at `fps`, within the config's bounds and no
    more than there are. They are spread evenly from the first to the last.

    Args:
      total: T, frames in the video.
      source_fps: its frames a second.
      config: rate and bounds.
      fps: another rate than the config's; not together with `count`.
      count: frames to show; repeated if the video has fewer.

    Returns:
      Ascending int64 [N].

    Raises:
      UserError: both given, or a number that is not positive.
    """
    if fps is not None and count is not None:
        raise UserError(
            "frames are chosen by rate or by number; "
            f"got fps {fps} and count {count}; give one"
        )
    numbers = {"total": total, "source_fps": source_fps, "fps": fps, "count": count}
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise UserError(f"{name} must be positive; got {value}; give more than 0")
    if count is None:
        count = int(total / source_fps * (config.fps if fps is None else fps))
        count = min(max(count, config.min_frames), config.max_frames, total)
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def _checked(pixels: np.ndarray | jax.Array, rank: int) -> np.ndarray | jax.Array:
    shape = "[H, W, 3]" if rank == 3 else "[T, H, W, 3]"
    exact = isinstance(pixels, np.ndarray)
    wrong_rank = pixels.ndim != rank if exact else pixels.ndim < rank
    if pixels.dtype != jnp.uint8 or wrong_rank or pixels.shape[-1] != 3:
        raise UserError(
            f"pictures are uint8 RGB {shape}; got {pixels.dtype} "
            f"{list(pixels.shape)}; convert them"
        )
    return pixels
