"""Draws what experiments/unseen.py measured: learning curves, and perceived against true.

    pip install -e '.[figures]'
    python experiments/unseen_figure.py

A panel a task has the noise-free worlds' success over control steps, a line a rewarder,
mean of the seeds with their range; dotted is the progress that the first of them
perceives. The last panel has perceived against true progress after learning, a dot a
seed: what lies above the line is what hacking looks like.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from soler1_jax.common.errors import UserError
from soler1_jax.common.run import read_json

COLUMNS = 5
LEGEND_COLUMNS = 4
COLORS = {
    "nano": "#d9541e",
    "oracle": "#1b1f24",
    "time": "#2a78b5",
    "random": "#9aa3ad",
    "nano-before-wrong-touches": "#8e5bb5",
}
OTHER = "#3f9142"
# Iterations over which a curve is averaged: one has eight noise-free episodes.
WINDOW = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to draw."""

    figures: Path = Path("experiments/results/unseen.json")
    """Figures of experiments/unseen.py."""
    out: Path = Path("experiments/results/unseen.png")
    """The picture."""


def main(args: Args) -> None:
    """Writes the picture."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise UserError(
            "drawing needs matplotlib; it is not installed; "
            "run pip install -e '.[figures]'"
        ) from error
    if not args.figures.exists():
        raise UserError(
            f"the figures to draw must exist; got {args.figures}; "
            "run experiments/unseen.py first"
        )
    rewarders = read_json(args.figures)["rewarders"]
    rows_of_all = (row for table in rewarders.values() for row in table["tasks"])
    tasks = list(dict.fromkeys(row["task"] for row in rows_of_all))
    rows = math.ceil((len(tasks) + 1) / COLUMNS)
    size = (2.6 * COLUMNS, 2.2 * rows + 0.5)
    figure, panels = plt.subplots(rows, COLUMNS, figsize=size, layout="constrained")
    panels = list(panels.flat)
    for task, panel in zip(tasks, panels, strict=False):
        rows_of_task = [
            (name, row)
            for name, table in rewarders.items()
            for row in table["tasks"]
            if row["task"] == task
        ]
        for place, (name, row) in enumerate(rows_of_task):
            learning_curve(panel, name, row, perceived=place == 0)
        panel.set(title=task.replace("-", " "), ylim=(-0.03, 1.03))
    plane(panels[len(tasks)], rewarders)
    for panel in panels[len(tasks) + 1 :]:
        panel.set_axis_off()
    for panel in panels:
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    curves = panels[: len(tasks)]
    lines = {line.get_label(): line for p in curves for line in p.get_lines()}
    figure.supxlabel("thousand control steps", fontsize=9)
    columns = min(len(lines), LEGEND_COLUMNS)
    figure.legend(
        lines.values(), lines, loc="outside upper center", ncols=columns, fontsize=8
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    plt.close(figure)
    print(args.out)


def learning_curve(panel: Any, name: str, row: dict[str, Any], perceived: bool) -> None:
    """One rewarder's line in a task's panel; thousands of control steps across."""
    shortest = min(map(len, row["curves"]))
    # [seeds, iterations, (control steps, success, perceived progress)]
    curves = np.array([curve[:shortest] for curve in row["curves"]])
    steps = curves[0, :, 0] / 1000
    success = running_mean(curves[..., 1])
    color = COLORS.get(name, OTHER)
    panel.plot(steps, success.mean(0), color=color, label=f"{name}: true success")
    panel.fill_between(
        steps, success.min(0), success.max(0), color=color, alpha=0.15, linewidth=0
    )
    if perceived:
        said = running_mean(curves[..., 2]).mean(0)
        label = f"{name}: perceived progress"
        panel.plot(steps, said, color=color, linestyle=":", label=label)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the last `WINDOW` iterations, of fewer at the start: [S, I] -> [S, I]."""
    total = np.cumsum(values, axis=1)
    before = np.pad(total, ((0, 0), (WINDOW, 0)))[:, : values.shape[1]]
    return (total - before) / np.minimum(np.arange(values.shape[1]) + 1, WINDOW)


def plane(panel: Any, rewarders: dict[str, Any]) -> None:
    """Perceived against true progress after learning."""
    panel.plot([0, 1], [0, 1], color="#c4cad1", linewidth=1)
    for name, table in rewarders.items():
        color = COLORS.get(name, OTHER)
        for row in table["tasks"]:
            true, said = row["true_progress"], row["perceived_success"]
            panel.scatter(true, said, s=12, color=color, alpha=0.7)
    panel.set(title="perceived over true progress", xlim=(0, 1), ylim=(0, 1))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
