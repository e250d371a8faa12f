"""Search for states that a rewarder praises wrongly: `soler1 eval attack`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

# Of every family of the unseen list, and both of its directions of fixtures.
TASKS = (
    "reach-purple-ball",
    "touch-orange-cylinder",
    "push-left-purple-cube",
    "lift-purple-ball",
    "place-orange-cube",
    "close-drawer",
    "slide-window-left",
)
# Side in pixels of the pictures on the page.
_SHOWN = 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """States that a rewarder praises and that are worth nothing."""

    out: Path
    """Run folder: result.json, report.html, pictures of the worst states."""
    rewarder: str = "nano"
    """nano, or a model's folder."""
    readout: Literal["greedy", "sampled", "expected", "glance"] = "glance"
    """How a model's progress is read."""
    caution: float = 0.0
    """Standard deviations of the value head's distribution taken off its mean."""
    task: tuple[str, ...] = TASKS
    """Tasks."""
    worlds: int = 4
    """Worlds of each task."""
    candidates: int = 64
    """States tried in each world and round."""
    rounds: int = 8
    """Rounds of the search; the first one draws from everywhere."""
    seed: int = 0
    """Of worlds and states."""


def run(args: Attack) -> None:
    """Searches, writes the run folder and prints the figures."""
    from soler1_jax.common.errors import require_non_negative
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.evals.adversarial import SearchConfig, search
    from soler1_jax.reward.load import load_rewarder
    from soler1_jax.reward.vlm import VLMSettings
    from soler1_jax.viz.report import write_report

    began = time.monotonic()
    require_non_negative("seed", args.seed)
    config = SearchConfig(
        worlds=args.worlds,
        candidates=args.candidates,
        rounds=args.rounds,
        seed=args.seed,
    )
    settings = VLMSettings(readout=args.readout, caution=args.caution)
    rewarder = load_rewarder(args.rewarder, settings)
    folder = Run(args.out, "eval attack", args)
    figures, worst = search(rewarder, args.task, config)
    for name, states in worst.items():
        for place, state in enumerate(states):
            _save(args.out / "episodes" / f"{name}-{place}.npz", name, state)
    seconds = time.monotonic() - began
    folder.finish({"command": command_line(), **figures, "wall_seconds": seconds})
    page = write_report(args.out)
    _print(figures)
    print(f"result: {args.out / 'result.json'}\npage: {page}")


def _save(path: Path, name: str, state: Any) -> None:
    """Keeps the first frame and the state as a film of two frames."""
    import numpy as np

    from soler1_jax.envs import tasks
    from soler1_jax.viz.episodes import EpisodeView, save_episode

    def film(view: str) -> Any:
        shown = [state.first[view], state.frames[view]]
        return (
            np.stack(shown)
            .repeat(_SHOWN // shown[0].shape[0], axis=1)
            .repeat(_SHOWN // shown[0].shape[1], axis=2)
        )

    view = EpisodeView(
        frames=film("external"),
        wrist=film("wrist") if "wrist" in state.frames else None,
        predicted=np.array([0.0, state.said]),
        true=np.array([0.0, state.true]),
        thoughts=["", state.thought],
        task=tasks.TASKS[tasks.task_index(name)].sentence,
        success=False,
        title=f"{name}: said {state.said:.0f} %, true {state.true:.0f} %",
    )
    save_episode(path, view)


def _print(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("mae", "false_per_1000", "worst_said", "worst_true", "deceived")
    table = Table(
        "task", title=f"{figures['states']} states from everywhere, and search"
    )
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in (figures["tasks"] | {"all": figures}).items():
        table.add_row(name, *(f"{row[column]:.2f}" for column in columns))
    Console().print(table)
