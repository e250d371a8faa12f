"""What each part of the recipe is worth, and what more data, families, parameters give.

    python experiments/ablations.py

The recipe of experiments/nano.py at a smaller budget, again and again with one thing
changed (the paper's figure 5), and on parts of the data (figure 6: task families; also
records and parameters). All variants are judged on the same episodes of unseen tasks, on
their own roll-outs, by every read-out that they have. Hardware: one CPU core, about 25
minutes a variant that shares its seeing stage with the full recipe, 50 for one that does
not. Continues if it was killed; rows of variants that a call leaves out stay as they
are. Figures: experiments/results/ablations.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from soler1_jax.common.run import command_line, environment, read_json, write_json

# The order in which families are added. Those that move in one way only come last.
FAMILIES = (
    "push",
    "reach",
    "lift",
    "drawer",
    "window",
    "place",
    "touch",
    "door",
    "lid",
    "lever",
    "dial",
    "button",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One change of the recipe.

    Attributes:
      see: settings of `soler1 sft` in the seeing stage; None to leave that stage out.
      ask: settings in the stage in which the model is asked.
      told: whether the model is told its previous answer when it is judged.
    """

    see: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    ask: dict[str, Any] = dataclasses.field(default_factory=dict)
    told: bool = False


def _part(**settings: Any) -> Variant:
    """Both stages on the same part of the data."""
    return Variant(see=settings, ask=settings)


VARIANTS: dict[str, Variant] = {
    "full": Variant(),
    "no thoughts": Variant(ask={"thoughts": False}),
    # Their seeing stage is the full one: what is taken away is progress on mistakes.
    "experts only": Variant(ask={"levels": (0,)}),
    "no questions": Variant(ask={"mixture": "progress", "compare_steps": 0}),
    "no seeing": Variant(see=None, ask={"perception_weight": 0.0}),
    "previous shown": Variant(ask={"previous": 1.0}, told=True),
    **{f"{k} families": _part(families=FAMILIES[:k]) for k in (1, 2, 4, 7)},
    **{f"{n} records": _part(records=n) for n in (250, 1000, 4000)},
    "pico": Variant(see={"model": "pico"}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to train, and for how long."""

    variant: tuple[Literal[tuple(VARIANTS)], ...] = tuple(VARIANTS)
    """Variants."""
    data: Path = Path("data/nano")
    """Data sets train, exam and test of experiments/nano.py."""
    runs: Path = Path("runs/ablations")
    """Folder of the run folders."""
    perception_steps: int = 3000
    """Steps of learning to see."""
    compare_steps: int = 100
    """Steps of questions."""
    progress_steps: int = 2400
    """Steps of progress queries."""
    test_episodes: int = 320
    """Episodes of unseen tasks."""
    seed: int = 0
    """Of everything."""
    out: Path = Path("experiments/results/ablations.json")
    """Where the figures go."""


def main(args: Args) -> None:
    """Trains and judges the variants; writes the figures after each."""
    for name in args.variant:
        figures = judged(args, VARIANTS[name], trained(args, name))
        rows = read_json(args.out)["variants"] if args.out.exists() else {}
        seeds = rows.setdefault(name, {})
        seeds[str(args.seed)] = {
            "settings": dataclasses.asdict(VARIANTS[name]),
            "command": command_line(),
            "environment": environment(),
            **figures,
        }
        write_json(args.out, {"variants": rows})
        for readout, row in figures["readouts"].items():
            print(f"{name}, {readout}: MAE {row['mae']:.1f}, r {row['pearson']:.3f}")


def trained(args: Args, name: str) -> Path:
    """Trains a variant; returns the folder of its model.

    Stages with the same settings are trained once.
    """
    variant = VARIANTS[name]
    start = "nano"
    if variant.see is not None:
        steps = {"perception_steps": args.perception_steps}
        # Examinations cost as much as some hundred steps, and nobody is asked yet.
        seeing = {"watch_every": args.perception_steps, **steps, **variant.see}
        folder = args.runs / _called("see", variant.see) / f"seed{args.seed}"
        start = str(teach(args, folder, {"model": "nano", **seeing}) / "model")
    steps = {
        "compare_steps": args.compare_steps,
        "progress_steps": args.progress_steps,
    }
    asking = {"exam": (args.data / "exam",), "exam_episodes": 80, **steps}
    folder = args.runs / name.replace(" ", "_") / f"seed{args.seed}"
    return teach(args, folder, {"model": start, **asking, **variant.ask}) / "model"


def _called(stage: str, settings: dict[str, Any]) -> str:
    """A folder's name that tells the settings."""
    parts = [stage]
    for key, value in sorted(settings.items()):
        short = len(value) if isinstance(value, tuple) else value
        parts.append(f"{key}_{short}")
    return "-".join(parts)


def teach(args: Args, folder: Path, settings: dict[str, Any]) -> Path:
    """Runs a supervised stage; returns its folder."""
    from soler1_jax.cli import sft

    none = {f"{stage}_steps": 0 for stage in ("perception", "compare", "progress")}
    sft.run(
        sft.Args(
            data=args.data / "train",
            out=folder,
            seed=args.seed,
            **(none | settings),
        )
    )
    return folder


def judged(args: Args, variant: Variant, model: Path) -> dict[str, Any]:
    """Figures of a model's own roll-outs over unseen tasks, by read-out."""
    from soler1_jax.evals import rewarder as evals
    from soler1_jax.model.functional import parameter_count
    from soler1_jax.reward.load import load_parts, load_rewarder
    from soler1_jax.reward.vlm import VLMSettings
    from soler1_jax.training import materials

    episodes = materials.exam_episodes([args.data / "test"], args.test_episodes)
    table: dict[str, Any] = {"episodes": len(episodes), "readouts": {}}
    for readout in ("glance", "expected", "greedy"):
        settings = VLMSettings(readout=readout, show_previous=variant.told)
        found = evals.judge(
            load_rewarder(str(model), settings), episodes, seed=args.seed, label=readout
        )
        report = evals.report_split(found)
        table["readouts"][readout] = {
            **{name: report[name] for name in ("mae", "pearson", "auc_highest")},
            "copy_slope": report["copy_slope"]["value"],
            "families": {
                family: {name: row[name] for name in ("mae", "pearson")}
                for family, row in report["families"].items()
            },
        }
    table["claims"] = {
        kind: {name: row[name] for name in ("accuracy", "majority")}
        for kind, row in report["claims"].items()
        if row["stated"] and row["due"]
    }
    table["parameters"] = parameter_count(load_parts(str(model))[1])
    return table


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
