"""Pictures to patches for a Qwen vision tower: sizes, normalisation, order.

H, W are a picture's sides in pixels, P the patch size, M the merge size, Z the temporal
patch size (frames in a patch). A picture is resized to multiples of P * M; a grid is
t x h x w patches with h = H / P, w = W / P and t = T / Z. A patch is a row of
D = 3 * Z * P * P numbers, colour first, then frame, row and column. Patches of one
merged token stand together: order is t, h / M, w / M, M, M.
"""

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data.resize import Arithmetic

Array = TypeVar("Array", np.ndarray, jax.Array)
_WORST_RATIO = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How pictures become patches; a checkpoint's `preprocessor_config.json`.

    Attributes:
      patch_size: P, pixels.
      temporal_patch_size: Z, frames.
      merge_size: M, patches.
      min_pixels, max_pixels: bounds of a picture's area after resizing; of a whole
        video's, frames counted, where the config is a video's.
      resize: bring pictures to the size above; else they must have multiples.
      rescale: factor before normalisation, 1/255.
      mean, std: of the rescaled colours.
      arithmetic: whose rounding the resize follows.
    """

    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    min_pixels: int = 65536
    max_pixels: int = 16777216
    resize: bool = True
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    arithmetic: Arithmetic = "torchvision"

    def __post_init__(self) -> None:
        for name in ("patch_size", "temporal_patch_size", "merge_size", "rescale"):
            require_positive(name, getattr(self, name))
        if not 0 < self.min_pixels <= self.max_pixels:
            raise UserError(
                "min_pixels is positive and at most max_pixels; got "
                f"{self.min_pixels} and {self.max_pixels}; correct the config"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise UserError(
                "mean and std have three numbers and no std is 0; got "
                f"{self.mean} and {self.std}; correct the config"
            )

    @property
    def factor(self) -> int:
        """Pixels on the side of a merged token."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """D, numbers in a patch."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig(PatchConfig):
    """How videos become patches; a checkpoint's `video_preprocessor_config.json`.

    Attributes:
      min_pixels, max_pixels: bounds of frames * height * width.
      fps: frames a second to show.
      min_frames, max_frames: bounds of their number.
      cap_frame_pixels: bound each frame's area too, by `max_frame_tokens` and by an
        even share of `max_pixels` (as qwen-vl-utils does).
      max_frame_tokens: tokens of a frame under that bound.
    """

    min_pixels: int = 4096
    max_pixels: int = 25165824
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    cap_frame_pixels: bool = False
    max_frame_tokens: int = 768

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("fps", self.fps)
        require_positive("max_frame_tokens", self.max_frame_tokens)
        if not 0 < self.min_frames <= self.max_frames:
            raise UserError(
                "min_frames is positive and at most max_frames; got "
                f"{self.min_frames} and {self.max_frames}; correct the config"
            )


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The size that a picture is brought to.

    Sides are rounded to multiples of `factor` (half to even); if the area then leaves
    its bounds, both sides are scaled together and rounded towards the inside.

    Args:
      height, width: in pixels.
      factor: what sides become multiples of.
      min_pixels, max_pixels: bounds of the area.

    Returns:
      New height and width in pixels.

    Raises:
      UserError: a side is more than 200 times the other.
    """
    return _bounded(1, 1, height, width, factor, min_pixels, max_pixels)


def image_size(height: int, width: int, config: PatchConfig) -> tuple[int, int]:
    """The size in pixels at which an image is cut into patches; see `smart_resize`."""
    if not config.resize:
        return _must_divide(height, width, config.factor)
    return smart_resize(
        height, width, config.factor, config.min_pixels, config.max_pixels
    )


def video_size(
    frames: int, height: int, width: int, config: VideoConfig
) -> tuple[int, int]:
    """The size in pixels at which a video's frames are cut into patches.

    As `smart_resize`, but the bounds are for all frames together, and a frame smaller
    than one token is enlarged first.

    Args:
      frames: T, before filling up the last temporal patch.
      height, width: in pixels.
      config: the bounds.

    Raises:
      UserError: fewer frames than a temporal patch has, or sides too unequal.
    """
    factor, z = config.factor, config.temporal_patch_size
    if not config.resize:
        return _must_divide(height, width, factor)
    if frames < z:
        raise UserError(
            f"a video has {z} frames or more; got {frames}; show it as an image"
        )
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    most = config.max_pixels
    if config.cap_frame_pixels:
        share = min(config.max_frame_tokens * factor**2, config.max_pixels // frames)
        most = max(share, int(config.min_pixels * 1.05)) * frames
    return _bounded(frames, z, height, width, factor, config.min_pixels, most)


def _bounded(
    frames: int,
    temporal: int,
    height: int,
    width: int,
    factor: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    if min(height, width) < 1:
        raise UserError(
            f"a picture has pixels; got {height} x {width}; check where it comes from"
        )
    ratio = max(height, width) / min(height, width)
    if ratio > _WORST_RATIO:
        raise UserError(
            f"a side may be {_WORST_RATIO} times the other; got {height} x {width} "
            "pixels; crop or pad the picture"
        )
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    area = round(frames / temporal) * temporal * new_height * new_width
    # The bounds are met by the true number of frames, the test is by the rounded one.
    if area > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (frames * height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def _must_divide(height: int, width: int, factor: int) -> tuple[int, int]:
    if height % factor or width % factor or not height or not width:
        raise UserError(
            f"without resizing a picture's sides are multiples of {factor}; "
            f"got {height} x {width}; resize it first"
        )
    return height, width


def normalise(pixels: Array, config: PatchConfig) -> Array:
    """Colours to numbers about 0: (pixel * rescale - mean) / std.

    Args:
      pixels: uint8 [..., 3].
      config: factor, mean and std.

    Returns:
      float32 [..., 3].
    """
    # Mean and std in units of a pixel value, as the reference computes it.
    mean = np.asarray(config.mean, np.float32) * np.float32(1 / config.rescale)
    std = np.asarray(config.std, np.float32) * np.float32(1 / config.rescale)
    return (pixels.astype(np.float32) - mean) / std


def cut(frames: Array, config: PatchConfig) -> Array:
    """Cuts normalised frames into patches.

    Args:
      frames: [..., T, H, W, 3], H and W multiples of `config.factor`. The last frame
        is repeated until T is a multiple of the temporal patch size, so that a still
        image is seen twice.
      config: P, Z and M.

    Returns:
      [..., N, D] of the same dtype, N = t * h * w, in the order above.
    """
    *batch, count, height, width, channels = frames.shape
    p, z, m = config.patch_size, config.temporal_patch_size, config.merge_size
    xp = np if isinstance(frames, np.ndarray) else jnp
    if missing := -count % z:
        last = xp.repeat(frames[..., -1:, :, :, :], missing, axis=-4)
        frames = xp.concatenate([frames, last], axis=-4)
        count += missing
    t, h, w = count // z, height // p, width // p
    split = frames.reshape(*batch, t, z, h // m, m, p, w // m, m, p, channels)
    b = len(batch)
    order = [b + axis for axis in (0, 2, 5, 3, 6, 8, 1, 4, 7)]
    return split.transpose(*range(b), *order).reshape(
        *batch, t * h * w, channels * z * p * p
    )
