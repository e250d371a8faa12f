"""Teaches two policies tasks that the shipped rewarder has never seen.

    python experiments/quickstart.py

The rewarder watches from inside the compiled simulation and its progress is the only
reward. Writes runs/quickstart/result.json, films of episodes with thoughts, and
report.html. If it was killed, it continues; if it was finished, it starts afresh.
Hardware: 2 CPU cores, one policy on each; the first run also compiles.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import tyro

from soler1_jax.cli import rl
from soler1_jax.common.errors import UserError
from soler1_jax.common.run import read_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to learn."""

    task: tuple[str, ...] = ("touch-green-cylinder", "touch-orange-cylinder")
    """Tasks; no training record of the rewarder touches a green cylinder, and none names
    an orange one."""
    out: Path = Path("runs/quickstart")
    """Run folder."""
    rewarder: str = "nano"
    """The rewarder, as in `soler1 rl`."""
    seeds: int = 1
    """Policies a task."""
    seed: int = 0
    """The first seed."""
    iterations: int = 90
    """Episodes of all 64 worlds that each policy learns from."""
    every: int = 10
    """Control steps between two questions. With 5, learning took 1.4 times as long and
    success differed by no more than 64 episodes tell."""
    oracle: bool = True
    """Train once more with the true progress, as the upper bound."""
    oracle_iterations: int = 40
    """As many suffice for it."""


def main(args: Args) -> None:
    """Trains and draws the report; prints where it is."""
    clear_finished(args.out)
    rl.run(
        rl.Args(
            task=args.task,
            out=args.out,
            rewarder=args.rewarder,
            seeds=args.seeds,
            seed=args.seed,
            iterations=args.iterations,
            every=args.every,
            oracle=args.oracle,
            oracle_iterations=args.oracle_iterations,
        ),
        command="quickstart",
    )
    from soler1_jax.viz.report import write_report

    print(write_report(args.out))


def clear_finished(folder: Path) -> None:
    """Empties the folder of an earlier quickstart that came to its end."""
    if not (folder / "result.json").exists():
        return
    if read_json(folder / "config.json").get("command") != "quickstart":
        raise UserError(
            f"--out is emptied before a new run; {folder} holds something else; "
            "choose another"
        )
    for name in ("groups", "episodes", "policies"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("metrics.jsonl", "report.html", "result.json", "config.json"):
        (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        print(f"quickstart: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
