"""Train policies from pixels, with a rewarder's progress as the only reward.

Acting, rendering, asking and learning are one compiled program; with several devices
or CPU cores as many tasks and seeds are learned at once. A killed command continues
when it is run again.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from soler1_jax.rl.runs import Job, JobResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 rl` trains."""

    task: tuple[str, ...]
    """Names of the tasks, as `soler1 tasks` lists them; one policy each."""
    out: Path
    """Run folder; result.json, metrics.jsonl and episodes/ are written there."""
    rewarder: str = "nano"
    """nano, a model's folder, oracle, random or time."""
    algo: Literal["ppo", "drqv2"] = "ppo"
    """PPO learns faster by the clock, DrQ-v2 by the question."""
    seeds: int = 1
    """Policies a task."""
    seed: int = 0
    """The first seed; the others follow."""
    iterations: int | None = None
    """Episodes of all worlds to learn from; 160 for ppo and 32 for drqv2 by default."""
    worlds: int | None = None
    """Episodes at once; 64 for ppo and 32 for drqv2 by default."""
    batch: int | None = None
    """Samples in a gradient step; 320 for ppo and 64 for drqv2 by default."""
    every: int = 5
    """Control steps between two questions to the rewarder; divides the episode's 40."""
    readout: Literal["greedy", "sampled", "expected", "glance"] = "glance"
    """How a model's progress is read: the number it writes (greedy or sampled), or the
    mean of its value head after the thought (expected) or before it (glance)."""
    caution: float = 0.0
    """Standard deviations of that head's distribution that are taken off its mean: a
    model is unsure of what it has not seen, and policies go there."""
    episodes: int = 64
    """Fresh episodes of each evaluation, before and after."""
    oracle: bool = False
    """Also train with the true progress, as the upper bound in result.json."""
    oracle_iterations: int | None = None
    """Iterations of that; by default as many. The truth teaches faster."""
    image_size: int = 32
    """Side of the policy's pictures in pixels."""
    parallel: int | None = None
    """Policies learned at once; by default as many as there are devices or cores."""
    devices: int | None = None
    """Devices that share the worlds of one policy; by default all that there are are
    shared among the policies learned at once."""
    stop_at: float | None = None
    """Perceived success, between 0 and 1, at which policies stop learning early."""
    keep_every: int | None = None
    """Iterations between two policies kept in OUT/policies; the last one always is."""
    save_seconds: float = 60.0
    """Seconds between two snapshots."""


_EPISODE = 40
_ITERATIONS = {"drqv2": 32, "ppo": 160}
_KEPT = 3
_ORACLE_STOP = 0.95


def run(args: Args, command: str = "rl") -> dict[str, Any]:
    """Trains, writes the run folder, prints one line a task.

    Args:
      args: what to train.
      command: what the run folder is of.

    Returns:
      The content of `result.json`.
    """
    from soler1_jax.common.run import Run, command_line

    started = time.monotonic()
    check(args)
    jobs = jobs_of(args)
    layout = _use_devices(args, len(jobs))
    trainer = make_trainer(args, args.rewarder, *layout)
    # Opened last: a refused command leaves no folder behind.
    folder = Run(args.out, command, args, may_change=("save_seconds",))
    found = _train(args, jobs, trainer, folder)
    upper = []
    if args.oracle:
        own = dataclasses.replace(
            args, iterations=args.oracle_iterations or args.iterations
        )
        upper = _train(own, jobs, make_trainer(own, "oracle", *layout), folder)
    elif args.rewarder == "oracle":
        upper = found
    result = {"command": command_line(), **summarise(args, found, upper)}
    result["wall_seconds"] = round(time.monotonic() - started, 1)
    result["resumed"] = folder.resumed
    folder.finish(result)
    for name, row in result["tasks"].items():
        print(
            f"{name}: true success {row['true_success_before']:.2f} -> "
            f"{row['true_success_after']:.2f}, perceived "
            f"{row['perceived_success_after']:.2f}"
        )
    print(f"{args.out}: {result['env_steps_per_second']:.0f} env steps/s")
    return result


def check(args: Args) -> None:
    """Refuses what cannot work before anything is compiled.

    Raises:
      UserError: a number is out of range.
    """
    from soler1_jax.common.errors import (
        UserError,
        require_non_negative,
        require_positive,
    )

    require_non_negative("--seed", args.seed)
    for name in ("seeds", "every", "episodes", "image_size"):
        require_positive(f"--{name.replace('_', '-')}", getattr(args, name))
    optional = ("iterations", "oracle_iterations", "worlds", "batch", "parallel")
    for name in (*optional, "devices", "keep_every"):
        value = getattr(args, name)
        if value is not None:
            require_positive(f"--{name.replace('_', '-')}", value)
    if args.worlds == 1:
        raise UserError(
            "some worlds explore and some do not, so --worlds is at least 2; got 1; "
            "raise it"
        )
    require_non_negative("--save-seconds", args.save_seconds)
    if _EPISODE % args.every:
        raise UserError(
            f"--every must divide the episode's {_EPISODE} control steps; "
            f"got {args.every}; use 5 or 10"
        )
    if not args.task:
        raise UserError("a task is needed; got none; name one after --task")


def jobs_of(args: Args) -> list[Job]:
    """Lists every task with every seed.

    Raises:
      UserError: a task is unknown or named twice.
    """
    from soler1_jax.common.errors import UserError
    from soler1_jax.envs import tasks
    from soler1_jax.rl.runs import Job

    if len(set(args.task)) < len(args.task):
        raise UserError(
            f"a task is named once; got {' '.join(args.task)}; "
            "use --seeds for several policies of one"
        )
    # Seeds vary slowest, so that a group holds different tasks.
    return [
        Job(name, index, tasks.TASKS[index].sentence, args.seed + offset)
        for offset in range(args.seeds)
        for name, index in [(n, tasks.task_index(n)) for n in args.task]
    ]


def _use_devices(args: Args, jobs: int) -> tuple[int, int]:
    """Decides how many policies are learned at once and how many devices each has.

    On a CPU every core is made a device.
    """
    import os

    import jax

    from soler1_jax.common import compile_cache
    from soler1_jax.common.errors import UserError

    compile_cache.enable()
    cores = len(os.sched_getaffinity(0))
    asked = min(args.parallel or 1, jobs) * (args.devices or 1)
    try:
        jax.config.update("jax_num_cpu_devices", max(cores, asked))
    except RuntimeError:
        # Something in this process computed before; the devices are as they are.
        pass
    there = jax.device_count()
    if asked > there:
        raise UserError(
            "--parallel policies need --devices devices each; "
            f"got {args.parallel or 1} x {args.devices or 1}, there are {there}; "
            "lower one"
        )
    parallel = min(args.parallel or there // (args.devices or 1), jobs)
    return parallel, args.devices or _even_share(args, there // parallel)


def _even_share(args: Args, devices: int) -> int:
    """Finds the largest number up to `devices` that can share a policy's work."""
    import math

    numbers = _agent_config(args)
    evenly = math.gcd(numbers.worlds, numbers.batch)
    # On each, some worlds explore and some do not.
    most = min(devices, numbers.worlds // 2)
    return max(n for n in range(1, most + 1) if evenly % n == 0)


def _agent_config(args: Args, devices: int = 1) -> Any:
    from soler1_jax.rl.drqv2 import DrQConfig
    from soler1_jax.rl.ppo import PPOConfig, quiet_worlds

    sizes = {"worlds": args.worlds, "batch": args.batch}
    given = {name: value for name, value in sizes.items() if value is not None}
    if args.algo == "drqv2":
        # The ring never needs more slots than there are iterations.
        return DrQConfig(**given, capacity=min(iterations(args), DrQConfig.capacity))
    quiet = quiet_worlds(given.get("worlds", PPOConfig.worlds), devices)
    return PPOConfig(**given, quiet=quiet, decay=iterations(args))


def make_trainer(args: Args, rewarder: str, parallel: int, devices: int) -> Any:
    """Builds environment, agent and rewarder.

    Args:
      args: what to train.
      rewarder: which.
      parallel: policies learned at once.
      devices: of each policy.

    Raises:
      UserError: the rewarder is unknown, or a size cannot work.
    """
    import jax

    from soler1_jax.envs.tabletop import make
    from soler1_jax.reward.load import load_rewarder
    from soler1_jax.reward.vlm import VLMSettings
    from soler1_jax.rl.chunk import ChunkConfig
    from soler1_jax.rl.drqv2 import make_drqv2
    from soler1_jax.rl.ppo import make_ppo
    from soler1_jax.rl.train import Trainer
    from soler1_jax.rl.types import shapes_of

    loaded = load_rewarder(
        rewarder, VLMSettings(readout=args.readout, caution=args.caution)
    )
    env = make(image_size=args.image_size, episode_length=_EPISODE)
    episode = ChunkConfig(every=args.every, queries=_EPISODE // args.every)
    make_agent = {"drqv2": make_drqv2, "ppo": make_ppo}[args.algo]
    agent = make_agent(
        _agent_config(args, devices), shapes_of(env), episode.steps, devices
    )
    used = jax.devices()[: parallel * devices]
    return Trainer(env, loaded, agent, episode, used)


def iterations(args: Args) -> int:
    """Learning iterations of each policy."""
    return args.iterations or _ITERATIONS[args.algo]


def _train(args: Args, jobs: list[Job], trainer: Any, folder: Any) -> list[JobResult]:
    from soler1_jax.rl.runs import RunsConfig, run_jobs

    own = trainer.rewarder.name == args.rewarder
    config = RunsConfig(
        iterations=iterations(args),
        episodes=args.episodes,
        save_seconds=args.save_seconds,
        keep_every=(args.keep_every or iterations(args)) if own else None,
        # With the truth as rewarder, perceived success is success: stop when it is
        # there, since the upper bound is not to cost more than the run itself.
        stop_at=args.stop_at if own else _ORACLE_STOP,
    )

    def keep(job: Job, stage: str, record: Any) -> None:
        if own:
            keep_episodes(folder.folder, trainer.rewarder, job, stage, record)

    return run_jobs(trainer, jobs, config, folder, keep)


def keep_episodes(
    folder: Path, rewarder: Any, job: Job, stage: str, record: Any
) -> None:
    """Stores a few evaluated episodes with their thoughts, to be looked at."""
    from soler1_jax.viz.episodes import EpisodeView, save_episode

    if not record.frames:
        return
    for b in range(min(_KEPT if stage == "after" else 1, len(record.success))):
        said = [rewarder.decode(tokens) for tokens in record.tokens[:, b]]
        wrist = record.frames.get("wrist")
        episode = EpisodeView(
            frames=record.frames["external"][:, b],
            wrist=None if wrist is None else wrist[:, b],
            predicted=record.predicted[:, b],
            true=record.true[:, b],
            thoughts=["", *said],
            task=job.sentence,
            success=bool(record.success[b]),
            title=f"{job.task}, seed {job.seed}, {stage} learning, episode {b}",
        )
        name = f"{job.task}-seed{job.seed}-{stage}-{b}.npz"
        save_episode(folder / "episodes" / name, episode)


def summarise(
    args: Args, found: list[JobResult], upper: list[JobResult]
) -> dict[str, Any]:
    """Averages the seeds of each task.

    Rates are those of learning, with acting, rendering and asking and without
    compilation; policies that are learned at the same time count together.

    Args:
      args: what was asked.
      found: results with the rewarder.
      upper: results with the true progress; empty if not asked for.

    Returns:
      The content of `result.json` but for times of the command.
    """
    seconds = sum({row.group: row.seconds for row in found}.values())
    return {
        "rewarder": args.rewarder,
        "algo": args.algo,
        "learning_seconds": round(seconds, 2),
        "env_steps_per_second": round(sum(r.env_steps for r in found) / seconds, 2),
        "queries_per_second": round(sum(r.queries for r in found) / seconds, 2),
        "tasks": {
            name: _task_row(
                [r for r in found if r.task == name],
                [r for r in upper if r.task == name],
            )
            for name in args.task
        },
    }


def _task_row(rows: list[JobResult], upper: list[JobResult]) -> dict[str, Any]:
    """One task of `result.json`; success is a fraction, progress errors are percent."""

    def mean(results: list[JobResult], stage: str, name: str) -> float | None:
        values = [getattr(r, stage)[name] for r in results]
        return round(sum(values) / len(values), 4) if values else None

    return {
        "sentence": rows[0].sentence,
        "true_success_before": mean(rows, "before", "true_success"),
        "true_success_after": mean(rows, "after", "true_success"),
        "perceived_success_after": mean(rows, "after", "perceived_success"),
        "oracle_success": mean(upper, "after", "true_success"),
        "seeds": len(rows),
        "progress_error_after": mean(rows, "after", "error"),
        "parse_rate": mean(rows, "after", "parsed"),
        "env_steps": rows[0].env_steps,
        "each_seed": [
            {"seed": r.seed, "before": r.before, "after": r.after} for r in rows
        ],
    }
