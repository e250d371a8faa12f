"""Remakes the shipped weights of `nano`.

    python experiments/nano.py

Synthesises training episodes, held-out episodes of the same tasks to choose
checkpoints by, and episodes of unseen tasks, by which nothing is chosen; trains the
tokenizer; then teaches the model to see, to compare frames and to state progress, and
improves it with verifiable rewards.
Hardware: one CPU core; figures and wall time of the shipped weights are in
soler1_jax/reward/weights/nano/metadata.json. Every part continues if it was killed.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to make, and how much of it."""

    out: Path = Path("runs/nano")
    """Run folder; the finished model is in OUT/model."""
    data: Path = Path("data/nano")
    """Folder of the data sets."""
    episodes: int = 8192
    """Runs for training; most are told twice."""
    exam_episodes: int = 160
    """Held-out episodes of trained tasks by which the best weights are chosen."""
    test_episodes: int = 320
    """Episodes of unseen tasks, for the figures that are shipped."""
    perception_steps: int = 5000
    """Steps of learning to see."""
    compare_steps: int = 150
    """Steps of questions."""
    progress_steps: int = 5500
    """Steps of progress queries."""
    improve_steps: int = 40
    """Steps of reinforcement learning; 0 for none."""
    seed: int = 0
    """Of everything."""
    ship: bool = False
    """Put the model where the package looks for its default weights."""


EXAM_SEED, TEST_SEED = 10_000, 20_000


def main(args: Args) -> None:
    """Makes the model; prints where it is and how good."""
    began = time.monotonic()
    from soler1_jax.cli import rlvr, sft, synth

    for name, count, split, seed in (
        ("train", args.episodes, "train", args.seed),
        ("exam", args.exam_episodes, "train", args.seed + EXAM_SEED),
        ("test", args.test_episodes, "unseen", args.seed + TEST_SEED),
    ):
        synth.run(
            synth.Args(
                out=args.data / name,
                episodes=count,
                split=split,
                seed=seed,
            )
        )
    folders = {name: args.out / name for name in ("see", "ask", "improve")}
    sft.run(
        sft.Args(
            data=args.data / "train",
            out=folders["see"],
            perception_steps=args.perception_steps,
            compare_steps=0,
            progress_steps=0,
            seed=args.seed,
        )
    )
    sft.run(
        sft.Args(
            model=str(folders["see"] / "model"),
            data=args.data / "train",
            exam=args.data / "exam",
            exam_episodes=args.exam_episodes,
            out=folders["ask"],
            perception_steps=0,
            compare_steps=args.compare_steps,
            progress_steps=args.progress_steps,
            save_every=500,
            watch_every=500,
            seed=args.seed,
        )
    )
    stages = {"ask": folders["ask"]}
    if args.improve_steps:
        stages["improve"] = folders["improve"]
        rlvr.run(
            rlvr.Args(
                model=folders["ask"] / "model",
                data=args.data / "train",
                exam=args.data / "exam",
                exam_episodes=args.exam_episodes,
                out=folders["improve"],
                steps=args.improve_steps,
                seed=args.seed + 1,
            )
        )
    publish(args, stages, time.monotonic() - began)


def publish(args: Args, stages: dict[str, Path], seconds: float) -> None:
    """Tests the model of each stage and writes the better one with its figures."""
    from soler1_jax.checkpoints.store import load_metadata, load_model, save_model
    from soler1_jax.common.run import command_line, environment, read_json, write_json
    from soler1_jax.training import materials

    merits = {n: read_json(p / "best.json")["merit"] for n, p in stages.items()}
    chosen = max(merits, key=lambda name: merits[name])
    test = materials.exam_episodes(args.data / "test", args.test_episodes)
    figures = {name: examine(path / "model", test) for name, path in stages.items()}
    config, params, tokenizer = load_model(stages[chosen] / "model")
    metadata = {
        "command": f"python experiments/nano.py (here: {command_line()})",
        "settings": {k: str(v) for k, v in dataclasses.asdict(args).items()},
        "environment": environment(),
        "seconds_this_time": round(seconds, 1),
        "seconds": {
            name: read_json(path / "result.json")["wall_seconds"]
            for name, path in stages.items()
        },
        "chosen": chosen,
        "chosen_by_pearson_of_glance_on_exam": merits,
        "unseen_test": figures,
        "trained": load_metadata(stages[chosen] / "model"),
    }
    metadata["trained"].pop("sha256")
    save_model(args.out / "model", config, params, tokenizer, metadata)
    write_json(args.out / "result.json", metadata)
    if args.ship:
        from soler1_jax.reward.load import NANO

        shutil.copytree(args.out / "model", NANO, dirs_exist_ok=True)
    print(f"{args.out / 'model'}: {chosen}, unseen tasks {figures[chosen]}")


def examine(model: Path, episodes: list) -> dict[str, float]:
    """Own answers of a stored model on episodes, see training/validation.py."""
    from soler1_jax.data.batches import BatchConfig
    from soler1_jax.model.functional import Functional
    from soler1_jax.training import curriculum, keeper, materials, supervise

    start = materials.load_start(model)
    functions = Functional(start.config)
    lengths = curriculum.lengths(episodes, supervise.Words(start.tokenizer), 0.0)
    examiner = supervise.Examiner(
        keeper.Keeper(model, functions, start.tokenizer, {}),
        episodes,
        BatchConfig(**curriculum.patches(start.config), **lengths),
    )
    return examiner.figures(start.params)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
