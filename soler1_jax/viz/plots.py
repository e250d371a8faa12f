"""Charts as SVG text that follows the page's light or dark colours.

Colours are CSS variables of page.py (`--truth`, `--said`, `--series-1` ...), so one
chart reads well on either background; there is nothing to load and nothing to run.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 40
SERIES_COLORS = 6
# Where a cursor stands at both ends of the x axis, in units of the view box.
CURSOR_SPAN = (_LEFT, WIDTH - _RIGHT)


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: x and y of equal length; NaN breaks it.

    Attributes:
      name: for the legend; "" leaves it out of there.
      x: values [N].
      y: values [N].
      color: a CSS colour, such as "var(--truth)".
      dashed: draw it dashed.
      dots: mark its points.
      faint: draw it thin and pale, as one of many.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    color: str = "var(--series-1)"
    dashed: bool = False
    dots: bool = False
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Axes:
    """Ranges and labels of a chart; a range of None fits the data."""

    x_label: str = ""
    y_label: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Maps values to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        low, high = self.y
        return (
            HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        )


def color_of(index: int) -> str:
    """The CSS colour of the index-th series of many; colours repeat."""
    return f"var(--series-{index % SERIES_COLORS + 1})"


def line_chart(
    series: Sequence[Series], axes: Axes, *, title: str = "", cursor: bool = False
) -> str:
    """Lines over a common axis.

    Args:
      series: what to draw, first below last.
      axes: labels and ranges.
      title: read out by screen readers, and shown above the chart.
      cursor: add a vertical line of class "cursor" that the page's script moves.

    Returns:
      A <figure> element.
    """
    scale = _fit(series, axes)
    parts = [*_grid(scale, axes)]
    for one in series:
        parts.append(_line(one, scale))
    if cursor:
        x = scale.across(scale.x[0])
        parts.append(
            f'<line class="cursor" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
            f'y2="{HEIGHT - _BOTTOM}"/>'
        )
    named = [(s.name, s.color, "dashed" * s.dashed) for s in series]
    return _figure(parts, title, _legend(named))


def scatter_chart(
    points: Sequence[tuple[float, float, str, str]],
    axes: Axes,
    *,
    title: str = "",
    diagonal: bool = True,
) -> str:
    """Dots, one colour a group, each with its label as a tooltip.

    Args:
      points: (x, y, label, group).
      axes: labels and ranges.
      title: shown above the chart.
      diagonal: draw the line y = x.
    """
    groups = list(dict.fromkeys(group for *_, group in points))
    one = [Series("", [p[0] for p in points], [p[1] for p in points])]
    scale = _fit(one, axes)
    parts = [*_grid(scale, axes)]
    if diagonal:
        low = max(scale.x[0], scale.y[0])
        high = min(scale.x[1], scale.y[1])
        parts.append(
            f'<line class="diagonal" x1="{scale.across(low):.1f}" '
            f'y1="{scale.down(low):.1f}" x2="{scale.across(high):.1f}" '
            f'y2="{scale.down(high):.1f}"/>'
        )
    for x, y, label, group in points:
        index = groups.index(group)
        color = color_of(index)
        fill = color if _kind(index) == "dot" else "none"
        parts.append(
            f'<circle cx="{scale.across(x):.1f}" cy="{scale.down(y):.1f}" r="5" '
            f'style="fill:{fill};stroke:{color};stroke-width:2" fill-opacity=".6">'
            f"<title>{html.escape(label)}: {x:.0f}, {y:.0f}</title></circle>"
        )
    named = [(g, color_of(i), _kind(i)) for i, g in enumerate(groups)]
    return _figure(parts, title, _legend(named))


def _kind(index: int) -> str:
    """Marker of the index-th group: colours repeat as rings."""
    return "dot" if index // SERIES_COLORS % 2 == 0 else "dot ring"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values within [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _fit(series: Sequence[Series], axes: Axes) -> _Scale:
    def span(given: tuple[float, float] | None, names: str) -> tuple[float, float]:
        if given is not None:
            return given if given[1] > given[0] else (given[0], given[0] + 1.0)
        values = np.concatenate(
            [np.asarray(getattr(s, names), np.float64) for s in series] or [[0.0]]
        )
        values = values[np.isfinite(values)]
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        pad = (high - low) * 0.04 or max(abs(high), 1.0) * 0.1
        return (low, high) if names == "x" and high > low else (low - pad, high + pad)

    return _Scale(span(axes.x_range, "x"), span(axes.y_range, "y"))


def _grid(scale: _Scale, axes: Axes) -> list[str]:
    parts = []
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in ticks(*scale.y):
        y = scale.down(value)
        kind = "zero" if value == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" '
            f'text-anchor="end">{_number(value)}</text>'
        )
    for value in ticks(*scale.x, count=8):
        x = scale.across(value)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" '
            f'text-anchor="middle">{_number(value)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{html.escape(axes.x_label)}</text>'
    )
    centre = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" transform="translate(13 {centre}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(axes.y_label)}</text>'
    )
    return parts


def _line(one: Series, scale: _Scale) -> str:
    pieces, piece = [], []
    for x, y in zip(one.x, one.y, strict=True):
        if np.isfinite(x) and np.isfinite(y):
            piece.append((scale.across(float(x)), scale.down(float(y))))
        elif piece:
            pieces.append(piece)
            piece = []
    pieces += [piece] if piece else []
    kind = "line" + " faint" * one.faint + " dashed" * one.dashed
    drawn = []
    for piece in pieces:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
        drawn.append(
            f'<polyline class="{kind}" style="stroke:{one.color}" points="{path}"/>'
        )
        if one.dots or len(piece) == 1:
            drawn += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" style="fill:{one.color}"/>'
                for x, y in piece
            ]
    return "".join(drawn)


def _legend(named: Sequence[tuple[str, str, str]]) -> str:
    """Keys for (name, color, marker class); unnamed ones are left out."""
    entries = {name: (color, kind) for name, color, kind in named if name}
    return "".join(
        f'<span class="key"><i class="{kind}" style="--c:{color}"></i>'
        f"{html.escape(name)}</span>"
        for name, (color, kind) in entries.items()
    )


def _figure(parts: Sequence[str], title: str, legend: str) -> str:
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    return (
        f'<figure class="chart">{caption}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title or "chart")}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _number(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "−")
