"""Pictures of any size as equally long rows of patches; laid out on the host.

A batch holds frames of different sizes. Each frame becomes a row of patches, padded to
the longest, so that attention within frames is one batched product of a static shape.
Patches come in merge-block order: the patches that become one decoder token lie together.

Letters: N frames, P places for patches, m side of a merged block, S side of the position
table, I numbers of a patch (channel, time, row, column).
Source: Qwen3-VL (arXiv 2511.21631), section 2; the order is that of its processor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from soler1_jax.common.errors import UserError
from soler1_jax.model.config import VisionConfig


class Patches(NamedTuple):
    """Frames as rows of patches."""

    values: ArrayLike  # float [N, P, I], pixels scaled to [-1, 1]
    # bool [N, P], False on padding; or int32, 0 on padding, where a row holds several
    # pictures, which are numbered from 1 and do not see each other
    mask: ArrayLike
    places: ArrayLike  # int32 [N, P, 2], row and column
    taps: ArrayLike  # int32 [N, P, 4], rows of the position table to mix
    weights: ArrayLike  # float32 [N, P, 4], in which shares


def bucket(count: int) -> int:
    """Rounds up to one of four sizes per power of two, so that few shapes are compiled.

    1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ...: less than a quarter is padding.
    """
    step = max(1, 2 ** (max(count - 1, 1).bit_length() - 3))
    return max(1, -(-count // step) * step)


def frame_grids(grid_thw: ArrayLike) -> np.ndarray:
    """Patches down and across of each frame.

    Args:
      grid_thw: int [M, 3], temporal patches, rows and columns of M pictures or videos.

    Returns:
      int64 [N, 2]; every temporal patch of a video is a frame.

    Raises:
      UserError: `grid_thw` is not such an array.
    """
    grids = np.asarray(grid_thw)
    whole = np.issubdtype(grids.dtype, np.integer)
    if grids.ndim != 2 or grids.shape[1] != 3 or not whole or np.any(grids < 1):
        raise UserError(
            "grid_thw must be positive whole numbers of shape [M, 3]; got "
            f"{grids.dtype} {list(grids.shape)}; pass the processor's array unchanged"
        )
    return np.repeat(grids[:, 1:], grids[:, 0], axis=0).astype(np.int64)


def cut_pixels(
    pixels: ArrayLike, config: VisionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts square pictures of the configured size, still pictures filling the time axis.

    Args:
      pixels: float [M, 3, H, W], scaled to [-1, 1].
      config: of the encoder.

    Returns:
      float32 [M*h*w, I] in merge-block order, and grids int [M, 3].

    Raises:
      UserError: the pictures have another size.
    """
    pixels = np.asarray(pixels, np.float32)
    size, p, m = config.image_size, config.patch_size, config.spatial_merge_size
    if pixels.shape[1:] != (3, size, size):
        raise UserError(
            f"this model takes pictures of shape [3, {size}, {size}]; got "
            f"{list(pixels.shape[1:])}; use the processor of its checkpoint"
        )
    count, blocks = len(pixels), size // (p * m)
    cut = pixels.reshape(count, 3, blocks, m, p, blocks, m, p)
    cut = cut.transpose(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    cut = np.repeat(cut, config.temporal_patch_size, axis=6)
    grids = np.tile([1, config.grid, config.grid], (count, 1))
    return cut.reshape(-1, config.patch_values), grids


def pack_patches(
    values: ArrayLike, grids: np.ndarray, config: VisionConfig, *, exact: bool = False
) -> Patches:
    """Pads frames to equal length and works out where their patches lie.

    Args:
      values: float [sum of patches, I], one frame after the other, in merge-block order:
        `pixel_values` of the Qwen3-VL processor, then `pixel_values_videos`. A
        `jax.Array` stays on its device and keeps its dtype.
      grids: int [N, 2] of `frame_grids`.
      config: of the encoder.
      exact: pad to the longest frame only, not to a bucket.

    Returns:
      Patches, as numpy arrays but for `values` if they are on a device. Frames that only
      fill the bucket have no patches.

    Raises:
      UserError: the arrays do not fit each other or the configuration.
    """
    if not isinstance(values, jax.Array):
        values = np.asarray(values, np.float32)
    side = config.spatial_merge_size
    counts = grids.prod(axis=1)
    if values.shape != (counts.sum(), config.patch_values):
        raise UserError(
            f"pixel values must have shape [{counts.sum()}, {config.patch_values}] to "
            f"fit their grids; got {list(values.shape)}; pass the processor's arrays "
            "unchanged"
        )
    if np.any(grids % side):
        raise UserError(
            f"grids must be multiples of the merge size {side}; got "
            f"{grids[np.any(grids % side, axis=1)][0].tolist()}; resize the picture"
        )
    frames, longest = len(grids), int(counts.max()) // side**2
    if not exact:
        frames, longest = bucket(frames), bucket(longest)
    grids = np.concatenate([grids, np.full((frames - len(grids), 2), side)])
    counts = np.pad(counts, (0, frames - len(counts)))
    order = np.arange(longest * side**2)
    mask = order < counts[:, None]
    places = _places(order, grids[:, 1:], side) * mask[..., None]
    taps, weights = _mix(places, grids, config.position_grid)
    padded = _pad(values, mask)
    return Patches(padded, mask, places.astype(np.int32), taps, weights)


def _pad(values: ArrayLike, mask: np.ndarray) -> ArrayLike:
    """Puts [sum of patches, I] where `mask` [N, P] says, zeros elsewhere."""
    shape = (*mask.shape, values.shape[-1])
    if mask.all():
        # Pictures are large, and a copy of them is what takes longest here.
        return values.reshape(shape)
    if isinstance(values, jax.Array):
        return jnp.zeros(shape, values.dtype).at[np.nonzero(mask)].set(values)
    padded = np.zeros(shape, np.float32)
    padded[mask] = values
    return padded


def _places(order: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
    """Row and column of the patches at `order` [P] in frames `columns` [N, 1] wide."""
    block, inside = np.divmod(order, side * side)
    down, across = np.divmod(block, columns // side)
    rows = down * side + inside // side
    return np.stack([rows, across * side + inside % side], axis=-1)


def _mix(
    places: np.ndarray, grids: np.ndarray, table: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear interpolation of a table x table grid whose corners are the frame's.

    Returns indices int32 and shares float32, both [N, P, 4].
    """
    scale = np.float32(table - 1)
    at = places.astype(np.float32) * scale / np.maximum(grids[:, None] - 1, 1)
    at = at.astype(np.float32)
    low = np.floor(at)
    near = np.stack([low, np.minimum(low + 1, table - 1)], axis=-1).astype(np.int32)
    share = np.stack([1 - (at - low), at - low], axis=-1)
    taps = near[..., 0, :, None] * table + near[..., 1, None, :]
    weights = share[..., 0, :, None] * share[..., 1, None, :]
    shape = (*places.shape[:2], 4)
    return taps.reshape(shape), weights.reshape(shape)
