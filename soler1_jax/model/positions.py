"""Where the tokens of a prompt with pictures stand: multimodal rotary positions.

Words count one by one. The tokens of a frame share one time and lie on a grid that
starts one past everything before it; what follows starts one past its longest side. The
temporal patches of a video are frames of their own, with words (timestamps) between.

Letters: B prompts, T tokens, N frames (pictures first, then those of videos).
Source: Qwen3-VL technical report (arXiv 2511.21631), section 2 (interleaved MRoPE, text
timestamps).
"""

from typing import NamedTuple

import numpy as np

from soler1_jax.common.errors import UserError

WORD, IMAGE, VIDEO = range(3)
"""Kinds of tokens."""


class Placement(NamedTuple):
    """Which part of which frame a token stands for; meaningless at words."""

    frame: np.ndarray  # int64 [B, T], -1 at words
    offset: np.ndarray  # int64 [B, T], token of that frame


def locate(kinds: np.ndarray, images: np.ndarray, videos: np.ndarray) -> Placement:
    """Deals the frames' tokens out to their placeholders, prompt after prompt.

    Args:
      kinds: int [B, T], WORD, IMAGE or VIDEO.
      images, videos: int [N, 2], tokens down and across of the frames of each kind.

    Raises:
      UserError: there are more or fewer placeholders than tokens, or a frame's are apart.
    """
    frame = np.full(kinds.shape, -1)
    offset = np.zeros(kinds.shape, np.int64)
    first = 0
    for kind, name, grids in ((IMAGE, "image", images), (VIDEO, "video", videos)):
        counts = grids.prod(axis=1)
        ends = np.cumsum(counts)
        chosen = kinds == kind
        order = np.arange(chosen.sum())
        if len(order) != counts.sum():
            raise UserError(
                f"the prompts must hold a placeholder for every {name} token, "
                f"{counts.sum()}; got {len(order)}; pass the processor's arrays unchanged"
            )
        which = np.searchsorted(ends, order, side="right")
        frame[chosen] = first + which
        offset[chosen] = order - (ends - counts)[which]
        first += len(grids)
    later = offset[:, 1:] > 0
    apart = (frame[:, 1:] != frame[:, :-1]) & later
    if np.any(apart) or np.any(offset[:, :1] > 0):
        raise UserError(
            "the placeholders of a frame must stand together in one prompt; others lie "
            "between; pass the processor's arrays unchanged"
        )
    return Placement(frame, offset)


def rope_positions(
    placement: Placement,
    mask: np.ndarray,
    grids: np.ndarray,
    *,
    plain: bool = False,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts positions over the tokens that are there.

    Args:
      placement: of `locate`.
      mask: bool [B, T], False on padding, wherever it is.
      grids: int [N, 2], tokens down and across of all frames.
      plain: every token takes one position, pictures' too.
      first: where to start.

    Returns:
      int32 [B, 3, T] (time, height, width), 0 on padding; and int32 [B], the position
      that comes next.
    """
    if plain:
        counts = first + np.cumsum(mask, axis=1) - mask
        positions = np.repeat((counts * mask)[:, None], 3, axis=1)
        return positions.astype(np.int32), (first + mask.sum(axis=1)).astype(np.int32)
    # One more, empty frame stands for the words.
    grids = np.concatenate([grids, [[1, 1]]])
    sizes = grids[placement.frame]
    span = sizes.max(axis=-1)
    step = np.where(placement.offset == 0, span, 0) * mask
    start = np.cumsum(step, axis=1) - step
    start = np.where(placement.offset > 0, start - span, start)
    row, column = np.divmod(placement.offset, sizes[..., 1])
    start = start + first
    positions = np.stack([start, start + row, start + column], axis=1) * mask[:, None]
    return positions.astype(np.int32), (first + step.sum(axis=1)).astype(np.int32)
