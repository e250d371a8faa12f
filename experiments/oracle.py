"""Measures how fast both agents learn from pixels with the true progress as reward.

    python experiments/oracle.py

A progress query every fifth control step, one task of each of several families, three
seeds. Per task and agent: seconds, control steps and queries until success of the
noise-free worlds, averaged over 64 episodes, first reached 80 %; and success on
fresh episodes before and after. The limit beside it is twice what a prototype took for
a task of that family on one core. Hardware: CPU, one policy a core; compilation is left
out. Continues if it was killed. Rows of tasks and agents that a call leaves out stay as
an earlier call wrote them. Figures: experiments/results/oracle.json.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import tyro

from soler1_jax.cli import rl
from soler1_jax.common.run import command_line, environment, read_json, write_json
from soler1_jax.rl.drqv2 import DrQConfig
from soler1_jax.rl.ppo import PPOConfig

GOAL = 0.8
# Iterations that hold 64 noise-free episodes.
OVER = {
    "drqv2": 64 // DrQConfig().quiet_worlds,
    "ppo": 64 // PPOConfig().quiet,
}
# Seconds to 80 % on one core: DrQ-v2 and PPO.
PROTOTYPE = {
    "reach": (45, 17),
    "drawer": (25, 18),
    "button": (57, 23),
    "push": (58, 49),
    "lift": (104, 91),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to measure."""

    task: tuple[str, ...] = (
        "reach-red-cube",
        "touch-red-cube",
        "close-drawer",
        "press-button",
        "push-left-red-cube",
        "lift-red-cube",
        "close-lid",
        "lever-down",
        "slide-window-right",
    )
    """Tasks."""
    algo: tuple[Literal["drqv2", "ppo"], ...] = ("drqv2", "ppo")
    """Agents."""
    seeds: int = 3
    """Policies a task and agent."""
    iterations: int | None = None
    """Learning iterations of each policy; 64 for drqv2 and 200 for ppo by default."""
    parallel: int | None = None
    """Policies learned at once; by default one a core."""
    runs: Path = Path("runs/oracle")
    """Folder of the run folders."""
    out: Path = Path("experiments/results/oracle.json")
    """Where the figures go."""


_ITERATIONS = {"drqv2": 64, "ppo": 200}


def main(args: Args) -> None:
    """Runs all agents, writes the figures, prints a table."""
    rows = []
    for algo in args.algo:
        folder = args.runs / algo
        rl.run(
            rl.Args(
                task=args.task,
                out=folder,
                rewarder="oracle",
                algo=algo,
                seeds=args.seeds,
                iterations=args.iterations or _ITERATIONS[algo],
                parallel=args.parallel,
                stop_at=0.96,
            )
        )
        groups = (folder / "groups").glob("*.json")
        found = list(itertools.chain.from_iterable(map(read_json, groups)))
        found.sort(key=lambda result: result["seed"])
        how = {"command": command_line(), "environment": environment()}
        rows += [row(algo, task, found) | how for task in args.task]
    write_json(args.out, {"goal": GOAL, "rows": _kept(args.out, rows) + rows})
    for line in rows:
        shown = {k: line[k] for k in ("algo", "task", "seconds", "limit", "after")}
        print("  ".join(f"{k} {v}" for k, v in shown.items()))


def _kept(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored rows that the new ones do not replace."""
    new = {(row["algo"], row["task"]) for row in rows}
    stored = read_json(path)["rows"] if path.exists() else []
    return [row for row in stored if (row["algo"], row["task"]) not in new]


def row(algo: str, task: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table; lists have an entry a seed, None where 80 % was missed."""
    from soler1_jax.envs import tasks

    results = [r for r in found if r["task"] == task]
    hits = [reached(r["curve"], OVER[algo]) for r in results]
    family = tasks.TASKS[tasks.task_index(task)].family
    limit = PROTOTYPE.get(family)
    return {
        "algo": algo,
        "task": task,
        "family": family,
        "seeds": [r["seed"] for r in results],
        "seconds": [h and h["learning_seconds"] for h in hits],
        "env_steps": [h and h["env_steps"] for h in hits],
        "limit": limit and 2 * limit[algo == "ppo"],
        "before": [r["before"]["true_success"] for r in results],
        "after": [r["after"]["true_success"] for r in results],
        "curves": [
            [[c["env_steps"], c["quiet_success"]] for c in r["curve"]] for r in results
        ],
    }


def reached(curve: list[dict[str, float]], over: int) -> dict[str, float] | None:
    """The first row at which success, averaged over `over` rows, is at the goal."""
    for end in range(over, len(curve) + 1):
        recent = [row["quiet_success"] for row in curve[end - over : end]]
        if sum(recent) / over >= GOAL:
            return curve[end - 1]
    return None


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
