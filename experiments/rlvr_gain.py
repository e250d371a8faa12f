"""Whether reinforcement learning from verifiable rewards lowers the error of a model.

    python experiments/rlvr_gain.py

From the same weights, three seeds of `soler1 rlvr` and, as control, three seeds of as
many supervised steps on batches of the same size at the same rate: RLVR holds a tenth of
the supervised loss, so what it gains might be that. All keep the best weights by the
same examinations on held-out episodes of trained tasks, and are judged by `soler1 eval
rewarder` on the same episodes of unseen tasks. Hardware: one GPU, two minutes a seed, or
one CPU core, 80. Continues if it was killed; kinds that a call leaves out stay as an
earlier call from the same weights wrote them. Figures:
experiments/results/rlvr_gain.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from soler1_jax.checkpoints.store import load_metadata
from soler1_jax.common.run import command_line, environment, read_json, write_json
from soler1_jax.reward.load import NANO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to train from, and for how long."""

    kind: tuple[Literal["rlvr", "supervised"], ...] = ("rlvr", "supervised")
    """How the steps learn."""
    model: Path = NANO
    """Model folder to start from."""
    data: Path = Path("data/nano/train")
    """Training data set."""
    exam: Path = Path("data/nano/exam")
    """Held-out data set by which the best weights are kept."""
    runs: Path = Path("runs/rlvr_gain")
    """Folder of the run folders."""
    seeds: int = 3
    """Runs of each kind; seeds 1, 2, ..."""
    steps: int = 300
    """Steps of each run."""
    test_episodes: int = 400
    """Episodes of unseen tasks."""
    test_seed: int = 1
    """Of these episodes."""
    out: Path = Path("experiments/results/rlvr_gain.json")
    """Where the figures go."""


def main(args: Args) -> None:
    """Trains and judges all; writes the figures and prints what was gained."""
    made = {"command": command_line(), "environment": environment()}
    weights = load_metadata(args.model)["sha256"]["weights.npz"]
    table = read_json(args.out) if args.out.exists() else {}
    if table.get("weights") != weights:
        table = {"weights": weights}
    before = judged(args, args.runs / "before", args.model)
    table["before"] = made | before
    for kind in args.kind:
        table[kind] = {**made, "seeds": []}
        for seed in range(1, args.seeds + 1):
            folder = args.runs / kind / f"seed{seed}"
            train(args, kind, folder, seed)
            row = judged(args, folder / "judged", folder / "model")
            trained = {"seed": seed, "trained_on": read_json(folder / "env.json")}
            table[kind]["seeds"].append(trained | row)
        table[kind]["gains"] = gained(before, table[kind]["seeds"])
        write_json(args.out, table)
        for name, row in table[kind]["gains"].items():
            each = ", ".join(f"{value:+.3f}" for value in row["seeds"])
            print(f"{kind}, {name}: {row['mean']:+.3f} ({each})")


def train(args: Args, kind: str, folder: Path, seed: int) -> None:
    """Trains one model with `soler1 rlvr` or `soler1 sft`."""
    from soler1_jax.cli import rlvr, sft

    shared: dict[str, Any] = {
        "data": args.data,
        "exam": (args.exam,),
        "exam_episodes": 160,
        "out": folder,
        "episodes": 4,
        "queries": 4,
        "learning_rate": 1e-4,
        "dtype": "float32",
        "save_every": 50,
        "watch_every": 50,
        "seed": seed,
    }
    if kind == "rlvr":
        rlvr.run(rlvr.Args(model=args.model, steps=args.steps, **shared))
        return
    none = {"perception_steps": 0, "compare_steps": 0}
    sft.run(
        sft.Args(model=str(args.model), progress_steps=args.steps, **none, **shared)
    )


def judged(args: Args, folder: Path, model: Path) -> dict[str, Any]:
    """What `soler1 eval rewarder` finds on unseen tasks; runs it once a folder."""
    from soler1_jax.cli import eval as evaluation

    if not (folder / "result.json").exists():
        evaluation.run(
            evaluation.Rewarder(
                out=folder,
                rewarder=str(model),
                episodes=args.test_episodes,
                seed=args.test_seed,
            )
        )
    found = read_json(folder / "result.json")["splits"]["unseen"]
    written = found["readouts"]["stated number"]
    claims = {kind: row["accuracy"] for kind, row in found["claims"].items()}
    return {
        "episodes": found["episodes"],
        "mae": found["mae"],
        "pearson": found["pearson"],
        "auc_highest": found["auc_highest"],
        "written_mae": written["mae"],
        "written_pearson": written["pearson"],
        **{f"claim_{kind}": accuracy for kind, accuracy in claims.items()},
    }


def gained(
    before: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each seed's difference to the weights before, their mean and deviation.

    Args:
      before: what `judged` says of the model that all began with.
      rows: the same of each seed's model.
    """
    table = {}
    for name, value in before.items():
        seeds = [row[name] - value for row in rows]
        spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
        table[name] = {"seeds": seeds, "mean": float(np.mean(seeds)), "spread": spread}
    table.pop("episodes")
    return table


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
