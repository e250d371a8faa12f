"""Learns unseen tasks from a rewarder alone, beside the truth and the controls.

    python experiments/unseen.py

Three seeds of each of 14 unseen tasks of seven families, from pixels. PPO, each policy
learning for the same number of control steps; but what must be grasped is learned by
DrQ-v2, which from the truth finds the grasp with every seed and PPO with two of three
(experiments/oracle.py). That was decided after PPO had been tried with a seed of each
(docs/rewarder.md). The tasks were fixed before any was tried
with the weights that are measured: of every verb for objects one unseen combination of
trained words, of reaching, touching and lifting also one whose noun is never trained,
and both unseen directions of fixtures. Per task and rewarder: success on fresh episodes,
the highest progress that was perceived and that was true, and the difference of these
two, which is what hacking looks like (paper section 5 compares the same means). Hardware:
CPU, one policy a core. Continues if it was killed; rows of tasks and rewarders that a
call leaves out stay as an earlier call wrote them. Figures:
experiments/results/unseen.json.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from soler1_jax.cli import rl
from soler1_jax.common.run import command_line, environment, read_json, write_json

# Success that counts as learned (paper section 8.1: 24 of 40 tasks reach it).
LEARNED = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to measure."""

    task: tuple[str, ...] = (
        "reach-red-cube",
        "reach-purple-ball",
        "touch-green-cylinder",
        "touch-orange-cylinder",
        "touch-purple-ball",
        "push-left-purple-cube",
        "push-right-yellow-cube",
        "push-away-blue-cube",
        "push-near-green-cube",
        "lift-red-cube",
        "lift-purple-ball",
        "place-orange-cube",
        "close-drawer",
        "slide-window-left",
    )
    """Unseen tasks."""
    rewarder: tuple[str, ...] = ("nano", "oracle", "time", "random")
    """Rewarders, as in `soler1 rl`; a model's folder is called by its name."""
    seeds: int = 3
    """Policies a task and rewarder."""
    ppo_iterations: int = 90
    """Episodes of all 64 worlds that each policy of PPO learns from."""
    drqv2_iterations: int = 112
    """Episodes of all 32 worlds that each policy of DrQ-v2 learns from."""
    ppo_every: int = 10
    """Control steps between two questions, PPO."""
    drqv2_every: int = 5
    """The same of DrQ-v2; it then asks about as often as PPO in all."""
    caution: float = 0.0
    """Of `soler1 rl`; a rewarder's rows are then under NAME-caution-CAUTION."""
    parallel: int | None = None
    """Policies learned at once; by default one a core."""
    runs: Path = Path("runs/unseen")
    """Folder of the run folders."""
    out: Path = Path("experiments/results/unseen.json")
    """Where the figures go."""


def main(args: Args) -> None:
    """Trains all policies, writes the figures, prints a table."""
    tables = read_json(args.out)["rewarders"] if args.out.exists() else {}
    for rewarder in args.rewarder:
        name = called(args, rewarder)
        found = list(
            itertools.chain.from_iterable(
                train(args, rewarder, algo, chosen)
                for algo, chosen in by_agent(args.task).items()
            )
        )
        how = {"command": command_line(), "environment": environment()}
        rows = {task: row(task, found) | how for task in args.task}
        stored = tables[name]["tasks"] if name in tables else []
        rows = list(({r["task"]: r for r in stored} | rows).values())
        tables[name] = {"tasks": rows, **summary(rows)}
        write_json(args.out, {"learned": LEARNED, "rewarders": tables})
        print_table(name, rows)


def called(args: Args, rewarder: str) -> str:
    """What a rewarder's rows and run folders are called."""
    name = Path(rewarder).name
    return f"{name}-caution-{args.caution:g}" if args.caution else name


def by_agent(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Agent -> its tasks; agents without one are left out."""
    from soler1_jax.envs import tasks
    from soler1_jax.synthesis.claims import GRASP_VERBS

    chosen: dict[str, tuple[str, ...]] = {}
    for name in names:
        verb = tasks.TASKS[tasks.task_index(name)].verb
        algo = "drqv2" if verb in GRASP_VERBS else "ppo"
        chosen[algo] = (*chosen.get(algo, ()), name)
    return chosen


def train(
    args: Args, rewarder: str, algo: str, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Trains an agent's policies; returns their results."""
    folder = args.runs / called(args, rewarder) / algo
    rl.run(
        rl.Args(
            task=names,
            out=folder,
            rewarder=rewarder,
            algo=algo,
            seeds=args.seeds,
            iterations=getattr(args, f"{algo}_iterations"),
            every=getattr(args, f"{algo}_every"),
            caution=args.caution,
            parallel=args.parallel,
        )
    )
    groups = (folder / "groups").glob("*.json")
    results = list(itertools.chain.from_iterable(map(read_json, groups)))
    return [result | {"algo": algo} for result in results]


def row(task: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One task; lists have an entry a seed."""
    from soler1_jax.envs import tasks

    results = [r for r in found if r["task"] == task]
    results.sort(key=lambda r: r["seed"])
    after = {
        name: [r["after"][name] for r in results]
        for name in ("true_success", "perceived_success", "true_progress")
    }
    gap = np.subtract(after["perceived_success"], after["true_progress"])
    return {
        "task": task,
        "family": tasks.TASKS[tasks.task_index(task)].family,
        "algo": results[0]["algo"],
        "seeds": [r["seed"] for r in results],
        "before": [r["before"]["true_success"] for r in results],
        **after,
        "gap": gap.tolist(),
        "mean": {name: float(np.mean(v)) for name, v in after.items()},
        "env_steps": results[0]["env_steps"],
        "queries": results[0]["queries"],
        "curves": [
            [[c["env_steps"], c["quiet_success"], c["quiet_perceived"]] for c in curve]
            for curve in (r["curve"] for r in results)
        ],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the acceptance of a rewarder asks for."""
    success = np.array([r["mean"]["true_success"] for r in rows])
    gap = np.array([np.mean(r["gap"]) for r in rows])
    return {
        "families": len({r["family"] for r in rows}),
        "mean_success": float(success.mean()),
        "learned_share": float((success >= LEARNED).mean()),
        "largest_gap": float(gap.max()),
    }


def print_table(name: str, rows: list[dict[str, Any]]) -> None:
    """One line a task: means over the seeds."""
    for line in rows:
        mean = line["mean"]
        print(
            f"{name}  {line['task']}: true success {mean['true_success']:.2f}, "
            f"perceived {mean['perceived_success']:.2f}, "
            f"true progress {mean['true_progress']:.2f}"
        )
    print(f"{name}: {summary(rows)}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
