"""Prompts with pictures and videos, as arrays of few shapes; made on the host.

What comes in is what a checkpoint's processor returns: token ids in which every merged
patch has a placeholder, and the patches of all pictures one after the other, or, for
models with square pictures of one size, the pixels.

Letters: B prompts, T tokens, N frames, K places for a frame's merged tokens.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.patches import (
    Patches,
    bucket,
    cut_pixels,
    frame_grids,
    pack_patches,
)
from soler1_jax.model.positions import IMAGE, VIDEO, WORD, locate, rope_positions


class Prompt(NamedTuple):
    """Token ids and what the decoder must know about each."""

    ids: ArrayLike  # int32 [B, T]
    mask: ArrayLike  # bool [B, T], False on padding, left or right
    positions: ArrayLike  # int32 [B, 3, T]: time, height, width
    source: ArrayLike  # int32 [B, T], which of the N*K picture tokens; -1 for words
    last: ArrayLike  # int32 [B], place of the last token
    next_position: ArrayLike  # int32 [B], position of the first generated token


def make_prompt(
    config: ModelConfig,
    input_ids: ArrayLike,
    attention_mask: ArrayLike | None = None,
    pixel_values: ArrayLike | None = None,
    image_grid_thw: ArrayLike | None = None,
    pixel_values_videos: ArrayLike | None = None,
    video_grid_thw: ArrayLike | None = None,
    *,
    exact: bool = False,
) -> tuple[Prompt, Patches | None]:
    """Lays out a batch of prompts.

    Args:
      config: of the model.
      input_ids: int [B, T].
      attention_mask: [B, T], 0 on padding; None for none.
      pixel_values, pixel_values_videos: float [patches, channel*time*row*column]; or
        pixel_values alone float [M, channel, row, column], pictures of the configured
        size, scaled to [-1, 1]. Patches of images or of videos that are on a device
        already stay there.
      image_grid_thw, video_grid_thw: int [M, 3], temporal patches, rows, columns.
      exact: keep the sizes given instead of padding them to buckets.

    Returns:
      The prompt, padded on the right, and its patches, or None without pictures.

    Raises:
      UserError: the arrays do not fit each other or the model.
    """
    ids, mask = _tokens(config, input_ids, attention_mask)
    if np.ndim(pixel_values) == 4 and image_grid_thw is None:
        pixel_values, image_grid_thw = cut_pixels(pixel_values, config.vision)
    values, grids = _pictures(
        (pixel_values, image_grid_thw), (pixel_values_videos, video_grid_thw)
    )
    merged = [g // config.vision.spatial_merge_size for g in grids]
    placement = locate(_kinds(config, ids) * mask, *merged)
    positions, following = rope_positions(
        placement,
        mask,
        np.concatenate(merged),
        plain=config.text.mrope_section is None,
        first=config.text.first_position,
    )
    patches, capacity = None, 0
    if values:
        if len({v.shape[1:] for v in values}) > 1:
            raise UserError("images and videos have patches of different sizes")
        joined = values[0] if len(values) == 1 else np.concatenate(values)
        patches = pack_patches(
            joined, np.concatenate(grids), config.vision, exact=exact
        )
        capacity = patches.mask.shape[1] // config.vision.spatial_merge_size**2
    source = np.where(
        placement.frame < 0, -1, placement.frame * capacity + placement.offset
    )
    length = ids.shape[1]
    pad = (0, (length if exact else bucket(length)) - length)
    prompt = Prompt(
        ids=np.pad(ids, ((0, 0), pad)),
        mask=np.pad(mask, ((0, 0), pad)),
        positions=np.pad(positions, ((0, 0), (0, 0), pad)),
        source=np.pad(source, ((0, 0), pad), constant_values=-1).astype(np.int32),
        last=(length - 1 - np.argmax(mask[:, ::-1], axis=1)).astype(np.int32),
        next_position=following,
    )
    return prompt, patches


def _pictures(
    images: tuple[ArrayLike | None, ArrayLike | None],
    videos: tuple[ArrayLike | None, ArrayLike | None],
) -> tuple[list[ArrayLike], list[np.ndarray]]:
    """Checks pixel values and grid_thw of both kinds.

    Returns:
      The pixel values that are there, and frame grids int [N, 2] of images and videos.
    """
    values, grids = [], []
    for name, (pixels, thw) in (("image", images), ("video", videos)):
        if (pixels is None) != (thw is None):
            raise UserError(
                f"pixel values of {name}s come with their grid_thw; one is missing; "
                "pass both or neither"
            )
        grids.append(np.zeros((0, 2), int) if thw is None else frame_grids(thw))
        if pixels is not None:
            there = isinstance(pixels, jax.Array)
            values.append(pixels if there else np.asarray(pixels, np.float32))
    if images[1] is not None and len(grids[0]) != len(np.asarray(images[1])):
        raise UserError(
            "an image is one frame; image_grid_thw has more than one in time; pass "
            "videos as pixel_values_videos and video_grid_thw"
        )
    return values, grids


def _tokens(
    config: ModelConfig, input_ids: ArrayLike, attention_mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Checks ids and mask; returns int32 and bool [B, T]."""
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(
            f"input_ids must be whole numbers of shape [B, T]; got {ids.dtype} "
            f"{list(ids.shape)}; wrap one prompt in a list"
        )
    size = config.text.vocab_size
    if ids.min() < 0 or ids.max() >= size:
        raise UserError(
            f"the model knows tokens 0 to {size - 1}; got {ids.min()} to {ids.max()}; "
            "use the tokenizer of this checkpoint"
        )
    if attention_mask is None:
        return ids.astype(np.int32), np.ones(ids.shape, bool)
    mask = np.asarray(attention_mask).astype(bool)
    if mask.shape != ids.shape or not np.all(mask.any(axis=1)):
        raise UserError(
            "attention_mask must have the shape of input_ids and leave a token in every "
            f"prompt; got {list(mask.shape)} for {list(ids.shape)}; pass the processor's "
            "arrays unchanged"
        )
    return ids.astype(np.int32), mask


def _kinds(config: ModelConfig, ids: np.ndarray) -> np.ndarray:
    """Tells words from placeholders: int [B, T]."""
    media = config.media
    if media is None:
        return np.full(ids.shape, WORD)
    kinds = np.where(ids == media.image, IMAGE, WORD)
    return kinds if media.video is None else np.where(ids == media.video, VIDEO, kinds)
