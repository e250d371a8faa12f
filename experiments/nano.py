"""Remakes the shipped weights of `nano`.

    python experiments/nano.py                      # two CPU cores
    python experiments/nano.py --amounts gpu        # one GPU

Synthesises training episodes, held-out episodes of the same tasks to choose
checkpoints by, and episodes of unseen tasks, by which nothing is chosen; trains the
tokenizer; teaches the model to see, to compare frames and to state progress. Policies
of trained tasks that were learned from earlier weights may act in part of the data
(--policies): they have found what the data lack. Asked to (--attack), it also sets new
policies against the model and teaches it what those found.
Figures, hardware and wall time of the shipped weights are in
soler1_jax/reward/weights/nano/metadata.json. Every part continues if it was killed.
The amounts for a GPU have not been tried whole: on an H100 with jax 0.11.2 three data
sets of 4,096 runs were made at once in under two minutes; a step then took 43 ms on
eight episodes, and 0.1 s and more beside six other trainings.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

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


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much a machine can bear."""

    episodes: int
    parts: int  # data sets of training episodes, each made by a process of its own
    worlds: int
    perception_steps: int
    progress_steps: int
    perception_frames: int
    batch: int  # episodes of a step in which the model is asked
    every: int  # steps between two examinations


AMOUNTS = {
    "cpu": Amounts(12288, 1, 64, 10000, 8000, 2, 4, 500),
    "gpu": Amounts(12288, 3, 256, 10000, 12000, 9, 8, 1000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to make, and how much of it."""

    model: str = "nano"
    """What to begin with: a preset, or a model's folder, to go on with other data."""
    amounts: Literal["cpu", "gpu"] = "cpu"
    """The machine for which amounts, batches and intervals are chosen."""
    out: Path = Path("runs/nano")
    """Run folder; the finished model is in OUT/model."""
    data: Path = Path("data/nano")
    """Folder of the data sets."""
    episodes: int | None = None
    """Runs for training; most are told twice. By default as the amounts say."""
    policies: tuple[Path, ...] = ()
    """Folders of policies of trained tasks, one for each kind of agent, that act in
    further runs for training."""
    policy_episodes: int = 1024
    """Runs with the policies of each folder."""
    learning_rate: float = 1.2e-3
    """Peak of the cosine, once for seeing and once for the rest."""
    exam_episodes: int = 160
    """Held-out episodes of trained tasks by which the best weights are chosen."""
    test_episodes: int = 320
    """Episodes of unseen tasks, for the figures that are shipped."""
    perception_steps: int | None = None
    """Steps of learning to see; by default as the amounts say."""
    compare_steps: int = 150
    """Steps of questions."""
    progress_steps: int | None = None
    """Steps of progress queries; by default as the amounts say."""
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
POLICY_SEED = 50_000
KEEP_EVERY = 10
# The weights are nearly right by then.
ATTACK_RATE = 4e-4


def main(args: Args) -> None:
    """Makes the model; prints where it is and how good."""
    began = time.monotonic()
    amounts = AMOUNTS[args.amounts]
    parts = synthesise_all(args, amounts)
    exams = [args.data / "exam"]
    ask = teach(
        args,
        "ask",
        args.model,
        parts,
        perception_steps=amount(args.perception_steps, amounts.perception_steps),
        compare_steps=args.compare_steps,
        progress_steps=amount(args.progress_steps, amounts.progress_steps),
        learning_rate=args.learning_rate,
        exam=tuple(exams),
    )
    stages = {"ask": ask}
    if args.attack:
        attack(args, ask / "model")
        exams.append(args.data / "attack_exam")
        stages["attack"] = teach(
            args,
            "attack",
            str(ask / "model"),
            [*parts, args.data / "attack"],
            perception_steps=0,
            compare_steps=0,
            progress_steps=args.attack_steps,
            exam=tuple(exams),
            learning_rate=ATTACK_RATE,
        )
    if args.improve_steps:
        last = list(stages.values())[-1]
        stages["improve"] = improve(args, last / "model", exams)
    publish(args, stages, exams, time.monotonic() - began)


def amount(given: int | None, usual: int) -> int:
    """What the user asked for, or what the machine can bear."""
    return usual if given is None else given


def synthesise_all(args: Args, amounts: Amounts) -> list[Path]:
    """Makes all data sets, as many at once as there are parts; returns the training ones."""
    worlds = ["--worlds", amounts.worlds]
    share = -(-amount(args.episodes, amounts.episodes) // amounts.parts)
    parts = [
        (f"train{part or ''}", share, args.seed + part, worlds)
        for part in range(amounts.parts)
    ]
    parts += [
        (
            f"policies{kind}",
            args.policy_episodes,
            args.seed + POLICY_SEED + kind,
            [*worlds, "--policies", folder],
        )
        for kind, folder in enumerate(args.policies)
    ]
    held_out = [
        ("exam", args.exam_episodes, args.seed + EXAM_SEED, worlds),
        (
            "test",
            args.test_episodes,
            args.seed + TEST_SEED,
            [*worlds, "--split", "unseen"],
        ),
    ]
    with ThreadPoolExecutor(amounts.parts) as pool:
        jobs = [pool.submit(synthesise, args, *job) for job in (*parts, *held_out)]
    for job in jobs:
        job.result()
    return [args.data / name for name, *_ in parts]


def synthesise(
    args: Args, name: str, count: int, seed: int, settings: Sequence[Any] = ()
) -> None:
    """Makes a data set, see `soler1 synth`."""
    out = args.data / name
    command("synth", "--out", out, "--episodes", count, "--seed", seed, *settings)


def command(*words: Any) -> None:
    """Runs `soler1` in its own process.

    A process settles once how many devices a CPU has, and keeps what it took of a GPU's
    memory until it ends.
    """
    main = "from soler1_jax.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, *map(str, words)],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    if done.returncode:
        # It has said why.
        sys.exit(done.returncode)


def teach(
    args: Args, name: str, model: str, data: Sequence[Path], **settings: Any
) -> Path:
    """Runs a supervised stage; returns its folder.

    Args:
      args: of the whole recipe.
      name: of the stage and of its folder.
      model: what to begin with: a preset or a folder.
      data: the data sets.
      settings: of `sft.Args` where they are not the same in all stages.
    """
    from soler1_jax.cli import sft

    amounts = AMOUNTS[args.amounts]
    sft.run(
        sft.Args(
            model=model,
            data=data[0],
            more_data=tuple(data[1:]),
            out=args.out / name,
            exam_episodes=args.exam_episodes,
            perception_frames=amounts.perception_frames,
            episodes=amounts.batch,
            # positions are told apart to millimetres
            dtype="float32",
            save_every=amounts.every,
            watch_every=amounts.every,
            seed=args.seed,
            **settings,
        )
    )
    return args.out / name


def attack(args: Args, model: Path) -> None:
    """Sets policies against the model and makes data of what they do.

    Policies find what the data lack: states that look like success and are none. They
    are learned on trained tasks only, so unseen tasks stay unseen.
    """
    policies = args.out / "policies"
    wanted = ["--task", *args.attack_tasks, "--rewarder", model, "--out", policies]
    wanted += ["--iterations", args.attack_iterations, "--keep-every", KEEP_EVERY]
    command("rl", *wanted, "--seed", args.seed, "--devices", 1)
    kept = ["--policies", policies / "policies"]
    for name, count, seed in (
        ("attack", args.attack_episodes, args.seed + ATTACK_SEED),
        ("attack_exam", args.exam_episodes, args.seed + ATTACK_EXAM_SEED),
    ):
        synthesise(args, name, count, seed, kept)


def improve(args: Args, model: Path, exams: Sequence[Path]) -> Path:
    """Reinforcement learning from verifiable rewards; returns its folder."""
    from soler1_jax.cli import rlvr

    out = args.out / "improve"
    rlvr.run(
        rlvr.Args(
            model=model,
            data=args.data / "train",
            exam=tuple(exams),
            exam_episodes=args.exam_episodes,
            out=out,
            dtype="float32",
            steps=args.improve_steps,
            seed=args.seed + 1,
        )
    )
    return out


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
