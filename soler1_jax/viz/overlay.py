"""Draws a rewarder's progress and thoughts below the frames of a video.

The picture has three bands: the frame, the curve up to the present frame, and the last
thought. Progress in percent; T frames.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Sides of the shown frame are scaled to lie between these (pixels).
_MIN_WIDTH, _MAX_WIDTH, _MAX_HEIGHT = 480, 960, 640
_CURVE_HEIGHT, _TEXT_HEIGHT, _MARGIN = 150, 84, 14
_PAPER, _RULE, _SOFT, _INK = "#16181c", "#363b44", "#9aa1ad", "#eceef1"
_SAID, _TRUE = "#ff8a57", "#7db4ee"


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What is drawn on a video.

    Attributes:
      progress: float [T], percent.
      indices: int [N], frames at which the rewarder was asked; the first is 0.
      thoughts: N texts.
      task: the task in words.
      true: float [T], percent, or None where unknown.
    """

    progress: np.ndarray
    indices: Sequence[int]
    thoughts: Sequence[str]
    task: str
    true: np.ndarray | None = None


def draw(frames: Iterable[np.ndarray], overlay: Overlay) -> Iterator[np.ndarray]:
    """Yields each frame uint8 [H, W, 3] with its bands, all of one even size."""
    for t, frame in enumerate(frames):
        yield draw_frame(frame, overlay, t)


def draw_frame(frame: np.ndarray, overlay: Overlay, t: int) -> np.ndarray:
    """One frame with its bands; `t` is its index."""
    width, height = _shown_size(frame.shape[1], frame.shape[0])
    # Small simulator frames keep their pixels, large ones are averaged.
    method = (
        Image.Resampling.NEAREST if width > frame.shape[1] else Image.Resampling.BOX
    )
    canvas = Image.new("RGB", (width, height + _CURVE_HEIGHT + _TEXT_HEIGHT), _PAPER)
    canvas.paste(Image.fromarray(frame).resize((width, height), method), (0, 0))
    pen = ImageDraw.Draw(canvas)
    _draw_curve(pen, overlay, t, (0, height, width, height + _CURVE_HEIGHT))
    _draw_text(pen, overlay, t, height + _CURVE_HEIGHT, width)
    return np.asarray(canvas)


def _shown_size(width: int, height: int) -> tuple[int, int]:
    scale = min(_MAX_WIDTH / width, _MAX_HEIGHT / height)
    if scale >= 1:
        # Whole multiples keep a simulator's pixels square.
        scale = min(max(1, -(-_MIN_WIDTH // width)), max(1, int(scale)))
    # Texts need some width, however narrow the video.
    even = (max(_MIN_WIDTH // 2, round(width * scale)) // 2 * 2, round(height * scale))
    return even[0], even[1] // 2 * 2


def _draw_curve(pen: Any, overlay: Overlay, t: int, box: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    left, top, right, bottom = left + 44, top + 12, right - 60, bottom - 10
    values = [overlay.progress] + ([overlay.true] if overlay.true is not None else [])
    lowest = -100.0 if min(float(np.min(v)) for v in values) < -2 else 0.0
    last = max(1, len(overlay.progress) - 1)

    def at(frame: float, value: float) -> tuple[float, float]:
        share = (np.clip(value, lowest, 100.0) - lowest) / (100.0 - lowest)
        return left + frame / last * (right - left), bottom - share * (bottom - top)

    for level in sorted({lowest, 0.0, 50.0, 100.0}):
        y = at(0, level)[1]
        pen.line([(left, y), (right, y)], _RULE)
        pen.text((left - 8, y), f"{level:.0f}", _SOFT, _font(12), anchor="rm")
    if overlay.true is not None:
        pen.line([at(i, v) for i, v in enumerate(overlay.true)], _TRUE, 2)
    points = [at(i, v) for i, v in enumerate(overlay.progress[: t + 1])]
    if len(points) > 1:
        pen.line(points, _SAID, 3, joint="curve")
    for index in overlay.indices:
        if index <= t:
            x, y = at(index, overlay.progress[index])
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], _SAID)
    x, y = points[-1]
    pen.line([(x, top), (x, bottom)], _SOFT)
    now = f"{overlay.progress[t]:.0f}%"
    pen.text((right + 8, (top + bottom) / 2), now, _SAID, _font(18), anchor="lm")


def _draw_text(pen: Any, overlay: Overlay, t: int, top: int, width: int) -> None:
    asked = [i for i, index in enumerate(overlay.indices) if index <= t]
    thought = overlay.thoughts[asked[-1]] if asked else ""
    room = width - 2 * _MARGIN
    pen.text((_MARGIN, top), _wrap(overlay.task, 14, room, 1)[0], _SOFT, _font(14))
    lines = _wrap(thought or "first frame: 0 by definition", 15, room, 3)
    if asked and asked[-1] > 0 and not thought:
        lines = []
    for row, line in enumerate(lines):
        pen.text((_MARGIN, top + 21 + 19 * row), line, _INK, _font(15))


def _wrap(text: str, size: int, room: int, rows: int) -> list[str]:
    """Lines no wider than `room` pixels; the last of `rows` ends in an ellipsis."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if _font(size).getlength(longer) <= room or not line:
            line = longer
        else:
            lines.append(line)
            line = word
    lines.append(line)
    if len(lines) > rows:
        last = lines[rows - 1]
        while last and _font(size).getlength(last + " …") > room:
            last = last[:-1]
        lines = [*lines[: rows - 1], last.rstrip() + " …"]
    return lines


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
