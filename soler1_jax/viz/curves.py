"""Learning curves from the `metrics.jsonl` files of a run.

A line is one JSON object; nested objects are flattened to their last name. Files of
sub-folders belong to the same run (a task or a seed each). Lines that say `task`,
`seed` or `rewarder` become series of their own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soler1_jax.viz import plots

# What is most worth seeing comes first; the rest follows by name.
_FIRST = (
    "true_success",
    "quiet_success",
    "perceived_success",
    "true_progress",
    "error",
    "reward",
    "loss",
    "pearson",
    "mae",
)
_STEPS = ("env_steps", "steps", "step")
_IDENTITY = ("task", "rewarder", "algo", "stage", "seed")
_NOT_CURVES = {"seconds", "learning_seconds", "iteration", "episodes", "group"}
_NOT_CURVES |= {*_STEPS, *_IDENTITY}
_MAX_CHARTS, _MAX_SERIES = 12, 12
_MAX_POINTS = 400


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """All lines of all `metrics.jsonl` under `folder`, flattened.

    A last line that a killed command left half-written is dropped. `source` is the
    file's folder within `folder`.
    """
    folder = Path(folder)
    rows = []
    for path in sorted(folder.rglob("metrics.jsonl")):
        source = str(path.parent.relative_to(folder))
        for line in path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(dict(_flat(row)) | {"source": source})
    return rows


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


def charts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One chart for each quantity, at most twelve; no rows, no charts."""
    drawn = []
    for name in _quantities(rows)[:_MAX_CHARTS]:
        series, steps = _series(rows, name)
        if any(len(one.x) > 1 for one in series):
            axes = plots.Axes(steps.replace("_", " "), name.replace("_", " "))
            title = name.replace("_", " ")
            drawn.append(plots.line_chart(series, axes, title=title))
    return drawn


def _quantities(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {
        name
        for row in rows
        for name, value in row.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and name not in _NOT_CURVES
    }
    first = [name for name in _FIRST if name in names]
    return first + sorted(names - set(first))


def _series(
    rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[plots.Series], str]:
    """A colour for all seeds of one thing: each seed pale, their mean strong."""
    having = [row for row in rows if isinstance(row.get(name), (int, float))]
    steps = next((s for s in _STEPS if all(s in row for row in having)), "step")
    groups: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    for row in having:
        runs = groups.setdefault(_label(row), {})
        line = runs.setdefault((row["source"], row.get("seed")), [])
        line.append((float(row.get(steps, len(line))), float(row[name])))
    series = []
    for index, (label, runs) in enumerate(list(groups.items())[:_MAX_SERIES]):
        color = plots.color_of(index)
        lines = [_thinned(line) for line in runs.values()]
        if len(lines) > 1:
            series += [_as_series("", line, color, faint=True) for line in lines]
            lines = [_mean(lines)]
        shown = label if len(groups) > 1 else ""
        series.append(_as_series(shown, lines[0], color))
    return series, steps


def _as_series(
    name: str, line: list[tuple[float, float]], color: str, faint: bool = False
) -> plots.Series:
    x, y = [p[0] for p in line], [p[1] for p in line]
    # The upper bound is told apart by more than a colour.
    dashed = "oracle" in name
    return plots.Series(name, x, y, color, faint=faint, dashed=dashed)


def _mean(lines: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean of the lines at every x that all of them have, or at any of the first."""
    values: dict[float, list[float]] = {}
    for line in lines:
        for x, y in line:
            values.setdefault(x, []).append(y)
    shared = [x for x in sorted(values) if len(values[x]) == len(lines)]
    return [(x, sum(values[x]) / len(values[x])) for x in shared or sorted(values)]


def _thinned(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return line[:: -(-len(line) // _MAX_POINTS)]


def _label(row: Mapping[str, Any]) -> str:
    said = [str(row[k]) for k in _IDENTITY if k in row and k != "seed"]
    if row["source"] != "." and not said:
        said = [row["source"]]
    return ", ".join(said)
