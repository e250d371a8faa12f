"""Charts put values where they belong."""

import re
import xml.etree.ElementTree as ElementTree

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from soler1_jax.viz import plots


def _svg(figure):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure).group())


def _points(figure):
    lines = [e.get("points") for e in _svg(figure).iter("polyline")]
    return [
        np.array([[float(v) for v in p.split(",")] for p in line.split()])
        for line in lines
    ]


def test_points_are_linear_in_the_values():
    series = plots.Series("a", [0, 5, 10], [0, 100, 50])
    (line,) = _points(
        plots.line_chart([series], plots.Axes(x_range=(0, 10), y_range=(0, 100)))
    )
    left, right = plots.CURSOR_SPAN
    assert line[:, 0] == pytest.approx([left, (left + right) / 2, right])
    assert line[1, 1] < line[2, 1] < line[0, 1], "up is more"
    assert line[2, 1] == pytest.approx((line[0, 1] + line[1, 1]) / 2)


def test_gaps_break_lines_and_lone_points_are_dots():
    series = plots.Series("a", range(6), [0, 1, np.nan, 2, np.nan, np.nan])
    figure = plots.line_chart([series], plots.Axes())
    assert [len(line) for line in _points(figure)] == [2, 1]
    assert len(list(_svg(figure).iter("circle"))) == 1


def test_names_are_escaped_and_unnamed_series_have_no_key():
    figure = plots.line_chart(
        [plots.Series("<b>", [0, 1], [0, 1]), plots.Series("", [0, 1], [1, 0])],
        plots.Axes("<x>", "y"),
        title="<i>",
    )
    assert "&lt;b&gt;" in figure
    assert not any(mark in figure for mark in ("<b>", "<i>", "<x>"))
    assert figure.count('class="key"') == 1


def test_scatter_has_a_dot_and_a_tooltip_each():
    points = [(0, 10, "a", "g"), (50, 40, "b", "h"), (100, 90, "c", "g")]
    svg = _svg(plots.scatter_chart(points, plots.Axes()))
    assert [t.text for t in svg.iter("title")] == [
        "a: 0, 10",
        "b: 50, 40",
        "c: 100, 90",
    ]
    styles = [c.get("style") for c in svg.iter("circle")]
    assert styles[0] == styles[2] != styles[1]


def test_a_chart_of_nothing_or_of_a_constant_is_drawn():
    flat = plots.Series("a", [0, 0], [3, 3])
    for series in ([], [flat], [plots.Series("a", [0, 1], [np.nan, np.nan])]):
        _svg(plots.line_chart(series, plots.Axes()))
    _svg(plots.line_chart([flat], plots.Axes(x_range=(0, 0), y_range=(3, 3))))


@hypothesis.given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_inside_and_evenly_spaced(low, span, count):
    values = plots.ticks(low, low + span, count)
    assert all(low - span * 1e-6 <= v <= low + span * (1 + 1e-6) for v in values)
    assert len(values) <= count + 1
    steps = np.diff(values)
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6, atol=1e-9 * abs(low))
        mantissa = f"{steps[0]:.3e}".split("e")[0].rstrip("0").rstrip(".")
        assert mantissa in ("1", "2", "2.5", "5")
