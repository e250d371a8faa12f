"""The calls that the models of this project make: for tests and measurements."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """One call of `flash_attention`.

    Attributes:
      batch, length, heads, key_heads, size: B, Tq = Tk, Hq, Hkv and D.
      causal: whether later keys are hidden.
      segments: lengths of the segments of every row, one after another; what is left of
        the row is padding. Empty: no segments.
      logit_cap: soft cap, or None.
    """

    batch: int
    length: int
    heads: int
    key_heads: int
    size: int
    causal: bool = False
    segments: tuple[int, ...] = ()
    logit_cap: float | None = None

    def segment_ids(self) -> np.ndarray | None:
        """Return int32 [B, T], or None without segments."""
        if not self.segments:
            return None
        ids = np.repeat(np.arange(1, len(self.segments) + 1), self.segments)
        row = np.pad(ids, (0, self.length - len(ids))).astype(np.int32)
        return np.broadcast_to(row, (self.batch, self.length))

    def pairs(self) -> int:
        """Return how many pairs of query and key of one row and head are allowed."""
        parts = self.segments or (self.length,)
        return sum(n * (n + 1) // 2 if self.causal else n * n for n in parts)


_PACKED = (1500, 900, 700, 520, 300)

SHAPES = {
    # text: 4,096 tokens of prompt and thought, alone and packed
    "qwen3-vl-2b text": Shape(1, 4096, 16, 8, 128, causal=True),
    "qwen3-vl-4b and 8b text": Shape(1, 4096, 32, 8, 128, causal=True),
    "qwen3-vl-4b and 8b packed": Shape(
        2, 4096, 32, 8, 128, causal=True, segments=_PACKED
    ),
    # pictures: 16 frames of 256 x 256 pixels, patches of 16
    "qwen3-vl-2b and 4b vit": Shape(1, 4096, 16, 16, 64, segments=(256,) * 16),
    "qwen3-vl-8b vit": Shape(1, 4096, 16, 16, 72, segments=(256,) * 16),
    "qwen2.5-vl vit": Shape(1, 4096, 16, 16, 80, segments=(256,) * 16),
    "paligemma-2 vit": Shape(8, 256, 16, 16, 72),
    "paligemma-2 3b text": Shape(4, 512, 8, 4, 256, logit_cap=50.0),
    "nano vit": Shape(64, 64, 4, 4, 24),
    "nano text": Shape(32, 64, 4, 2, 32, causal=True),
}
"""Calls by the model that makes them."""
