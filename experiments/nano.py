"""Remakes the shipped weights of `nano`.

    python experiments/nano.py

Synthesises training episodes, held-out episodes of the same tasks to choose
checkpoints by, and episodes of unseen tasks, by which nothing is chosen; trains the
tokenizer; teaches the model to see, to compare frames and to state progress. Asked to
(--attack), it then sets policies against the model on trained tasks and teaches it what
they found.
Hardware: one CPU core; figures and wall time of the shipped weights are in
soler1_jax/reward/weights/nano/metadata.json. Every part continues if it was killed.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

# Of each family of motion one or two, none of them kept for evaluation.
ATTACKS = (
    "reach-red-ball",
    "touch-blue-ball",
    "reach-orange-cube",
    "touch-red-cylinder",
    "push-left-green-cube",
    "push-right-red-ball",
    "push-away-blue-cylinder",
    "push-near-yellow-cube",
    "lift-green-ball",
    "open-drawer",
    "close-door",
    "slide-window-right",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to make, and how much of it."""

    out: Path = Path("runs/nano")
    """Run folder; the finished model is in OUT/model."""
    data: Path = Path("data/nano")
    """Folder of the data sets."""
    episodes: int = 12288
    """Runs for training; most are told twice."""
    exam_episodes: int = 160
    """Held-out episodes of trained tasks by which the best weights are chosen."""
    test_episodes: int = 320
    """Episodes of unseen tasks, for the figures that are shipped."""
    perception_steps: int = 10000
    """Steps of learning to see."""
    compare_steps: int = 150
    """Steps of questions."""
    progress_steps: int = 8000
    """Steps of progress queries."""
    attack: bool = False
    """Set policies against the model, and teach it what they found. Not done for the
    shipped weights; see the README for what it gave."""
    attack_tasks: tuple[str, ...] = ATTACKS
    """Trained tasks on which policies are set against the model."""
    attack_iterations: int = 30
    """Learning iterations of each of those policies."""
    attack_episodes: int = 4096
    """Runs of those policies for training."""
    attack_steps: int = 1800
    """Steps of progress queries with these runs among the data."""
    improve_steps: int = 0
    """Steps of reinforcement learning from verifiable rewards; 0 for none."""
    seed: int = 0
    """Of everything."""
    ship: bool = False
    """Put the model where the package looks for its default weights."""


EXAM_SEED, TEST_SEED, ATTACK_SEED, ATTACK_EXAM_SEED = 10_000, 20_000, 30_000, 40_000
KEEP_EVERY = 10
# The weights are nearly right by then.
ATTACK_RATE = 4e-4


def main(args: Args) -> None:
    """Makes the model; prints where it is and how good."""
    began = time.monotonic()
    from soler1_jax.cli import rlvr

    for name, count, split, seed in (
        ("train", args.episodes, "train", args.seed),
        ("exam", args.exam_episodes, "train", args.seed + EXAM_SEED),
        ("test", args.test_episodes, "unseen", args.seed + TEST_SEED),
    ):
        synthesise(args, name, count, split=split, seed=seed)
    teach(args, "see", "nano", perception_steps=args.perception_steps)
    stages = {"ask": teach(args, "ask", "see", **asking(args))}
    exams = [args.data / "exam"]
    if args.attack:
        attack(args, stages["ask"] / "model")
        exams.append(args.data / "attack_exam")
        stages["attack"] = teach(
            args,
            "attack",
            "ask",
            progress_steps=args.attack_steps,
            more_data=(args.data / "attack",),
            exam=tuple(exams),
            learning_rate=ATTACK_RATE,
        )
    if args.improve_steps:
        last = list(stages.values())[-1]
        stages["improve"] = args.out / "improve"
        rlvr.run(
            rlvr.Args(
                model=last / "model",
                data=args.data / "train",
                exam=tuple(exams),
                exam_episodes=args.exam_episodes,
                out=stages["improve"],
                steps=args.improve_steps,
                seed=args.seed + 1,
            )
        )
    publish(args, stages, exams, time.monotonic() - began)


def synthesise(args: Args, name: str, count: int, **settings: Any) -> None:
    """Makes a data set."""
    from soler1_jax.cli import synth

    synth.run(synth.Args(out=args.data / name, episodes=count, **settings))


def asking(args: Args) -> dict[str, Any]:
    """Settings of the stage in which the model is asked."""
    return {
        "compare_steps": args.compare_steps,
        "progress_steps": args.progress_steps,
        "exam": (args.data / "exam",),
    }


def teach(args: Args, name: str, start: str, **settings: Any) -> Path:
    """Runs a supervised stage; returns its folder.

    Args:
      args: of the whole recipe.
      name: of the stage and of its folder.
      start: the stage to begin with, or a preset.
      settings: of `sft.Args` where they are not the same in all stages.
    """
    from soler1_jax.cli import sft

    before = args.out / start / "model"
    steps = {f"{stage}_steps": 0 for stage in ("perception", "compare", "progress")}
    sft.run(
        sft.Args(
            model=str(before) if before.exists() else start,
            data=args.data / "train",
            out=args.out / name,
            exam_episodes=args.exam_episodes,
            seed=args.seed,
            **(steps | settings),
        )
    )
    return args.out / name


def attack(args: Args, model: Path) -> None:
    """Sets policies against the model and makes data of what they do.

    Policies find what the data lack: states that look like success and are none. They
    are learned on trained tasks only, so unseen tasks stay unseen.
    """
    policies = args.out / "policies"
    command = ["rl", "--task", *args.attack_tasks, "--rewarder", model]
    command += ["--out", policies, "--iterations", args.attack_iterations]
    command += ["--keep-every", KEEP_EVERY, "--seed", args.seed, "--devices", 1]
    # In its own process: how many devices a CPU has is settled once.
    main = "from soler1_jax.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", main, *map(str, command)])
    if done.returncode:
        # It has said why.
        sys.exit(done.returncode)
    for name, count, seed in (
        ("attack", args.attack_episodes, args.seed + ATTACK_SEED),
        ("attack_exam", args.exam_episodes, args.seed + ATTACK_EXAM_SEED),
    ):
        kept = (policies / "policies",)
        synthesise(args, name, count, seed=seed, policies=kept)


def publish(
    args: Args, stages: dict[str, Path], exams: list[Path], seconds: float
) -> None:
    """Tests the model of each stage and writes the best one with its figures."""
    from soler1_jax.checkpoints.store import load_metadata, load_model, save_model
    from soler1_jax.common.run import command_line, environment, read_json, write_json
    from soler1_jax.training import materials

    held_out = materials.exam_episodes(exams, args.exam_episodes)
    test = materials.exam_episodes([args.data / "test"], args.test_episodes)
    exam = {name: examine(path / "model", held_out) for name, path in stages.items()}
    figures = {name: examine(path / "model", test) for name, path in stages.items()}
    chosen = min(exam, key=lambda name: exam[name]["mae_glance"])
    config, params, tokenizer = load_model(stages[chosen] / "model")
    metadata = {
        "command": f"python experiments/nano.py (here: {command_line()})",
        "settings": {k: str(v) for k, v in dataclasses.asdict(args).items()},
        "environment": environment(),
        "seconds_this_time": round(seconds, 1),
        "seconds": {
            path.name: read_json(path / "result.json")["wall_seconds"]
            for path in sorted(args.out.iterdir())
            if (path / "result.json").exists()
        },
        "chosen_by_mae_of_glance_on_exam": chosen,
        "exam": exam,
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
