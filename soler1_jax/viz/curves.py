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
    "perceived_success",
    "true_progress",
    "error",
    "reward",
    "loss",
    "pearson",
    "mae",
)
_STEPS = ("env_steps", "steps", "step")
_IDENTITY = ("task", "rewarder", "algo", "seed", "run", "stage")
_NOT_CURVES = {"seconds", "iteration", "episodes", "time", *_STEPS, *_IDENTITY}
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
    having = [row for row in rows if isinstance(row.get(name), (int, float))]
    steps = next((s for s in _STEPS if all(s in row for row in having)), "step")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in having:
        groups.setdefault(_label(row), []).append(row)
    shown = list(groups.items())[:_MAX_SERIES]
    series = []
    for index, (label, lines) in enumerate(shown):
        lines = _thinned(lines)
        series.append(
            plots.Series(
                label if len(groups) > 1 else "",
                [float(row.get(steps, i)) for i, row in enumerate(lines)],
                [float(row[name]) for row in lines],
                plots.color_of(index),
            )
        )
    return series, steps


def _thinned(lines: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    stride = -(-len(lines) // _MAX_POINTS)
    return lines[::stride]


def _label(row: Mapping[str, Any]) -> str:
    said = [
        str(row[k]) if k in ("task", "rewarder", "stage") else f"{k} {row[k]}"
        for k in _IDENTITY
        if k in row
    ]
    if row["source"] != "." and not said:
        said = [row["source"]]
    return ", ".join(said)
