"""Carries a list of jobs (a task and a seed each) from start to result, killable.

Jobs are learned in groups as large as the trainer. Each is measured before and after;
each iteration adds a line a job to `metrics.jsonl`. A snapshot of the whole state at
intervals and a file of results for each finished group let the same command continue
after being killed. Letter: R jobs of a group. Times in seconds.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from soler1_jax.common.errors import require_non_negative, require_positive
from soler1_jax.common.progress import Bar
from soler1_jax.common.run import Run, read_json, write_bytes, write_json
from soler1_jax.rl import policies, snapshot
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import EpisodeRecord

STOP_OVER = 8


class Job(NamedTuple):
    """One run."""

    task: str  # name
    index: int  # of the task in the environment
    sentence: str
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """How long and how carefully.

    Attributes:
      iterations: episodes of all worlds that each job learns from.
      episodes: fresh episodes of each evaluation, at least.
      save_seconds: between two snapshots; 0 saves after every iteration.
      keep_every: iterations between two policies that are kept under policies/; the
        last one always is. None keeps none.
      stop_at: perceived success, a fraction, at which a group stops early: all its
        noise-free worlds must have reached it over the last `STOP_OVER` iterations.
        The truth plays no part. None never stops.
    """

    iterations: int
    episodes: int = 64
    save_seconds: float = 60.0
    keep_every: int | None = None
    stop_at: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("iterations", self.iterations)
        require_positive("evaluation episodes", self.episodes)
        require_non_negative("seconds between snapshots", self.save_seconds)
        if self.keep_every is not None:
            require_positive("iterations between kept policies", self.keep_every)


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What one job came to; JSON-ready."""

    task: str
    sentence: str
    seed: int
    group: str  # jobs of one group were learned at the same time
    before: dict[str, float]  # of `Evaluation`
    after: dict[str, float]
    env_steps: int
    queries: int
    seconds: float  # of learning; evaluations and compilation left out
    curve: list[dict[str, float]]  # a row an iteration


# (job, "before" or "after", episodes of the last evaluated batch without axis R).
Keep = Callable[[Job, str, EpisodeRecord], None]


def run_jobs(
    trainer: Trainer,
    jobs: Sequence[Job],
    config: RunsConfig,
    run: Run,
    keep: Keep = lambda job, stage, record: None,
) -> list[JobResult]:
    """Learns all jobs and returns their results in order.

    Args:
      trainer: its number of runs is the size of a group; the last group is filled up
        with repetitions that are thrown away.
      jobs: at least one.
      config: lengths.
      run: the open run folder; metrics, snapshots and results of groups go there.
      keep: is shown evaluated episodes.

    Raises:
      UserError: a snapshot is damaged, or the disk is full.
    """
    results: list[JobResult] = []
    size, name = trainer.runs, Path(trainer.rewarder.name).name
    total = len(jobs) * config.iterations * trainer.steps_per_iteration
    with Bar(f"rl with {name}", total, "env steps") as bar:
        for start in range(0, len(jobs), size):
            wanted = list(jobs[start : start + size])
            path = run.folder / "groups" / f"{name}-{start // size}"
            done = path.with_name(path.name + ".json")
            if not done.exists():
                group = _Group(trainer, wanted, config, run, path, bar)
                found = group.complete(keep)
                write_json(done, [dataclasses.asdict(r) for r in found])
                group.snapshot.unlink(missing_ok=True)
            results += [JobResult(**row) for row in read_json(done)]
            bar.update((start + len(wanted)) * total // len(jobs))
    return results


@dataclasses.dataclass
class _History:
    """The host's side of a group's progress; goes into the snapshot."""

    iteration: int = 0
    seconds: float = 0.0
    before: list[dict[str, float]] = dataclasses.field(default_factory=list)
    curves: list[list[dict[str, float]]] = dataclasses.field(default_factory=list)


class _Group:
    """Jobs that are learned together."""

    def __init__(
        self,
        trainer: Trainer,
        wanted: list[Job],
        config: RunsConfig,
        run: Run,
        path: Path,
        bar: Bar,
    ):
        self.trainer, self.wanted, self.config = trainer, wanted, config
        self.run, self.bar = run, bar
        self.snapshot = path.with_name(path.name + ".npz")
        self.name = path.name
        self.shown = bar.done
        filled = wanted + [wanted[-1]] * (trainer.runs - len(wanted))
        self.work = trainer.assign(
            [job.index for job in filled], [job.sentence for job in filled]
        )
        self.state = trainer.init([job.seed for job in filled])
        self.history = _History()

    def complete(self, keep: Keep) -> list[JobResult]:
        """Measures, learns and measures again, from wherever it was left."""
        self._resume()
        self.trainer.compile(self.state, self.work)
        history, config = self.history, self.config
        if not history.before:
            history.before = self._evaluate("before", keep)
            history.curves = [[] for _ in self.wanted]
            self._forget_later_lines()
        saved = time.monotonic()
        while history.iteration < config.iterations and not self._enough():
            self._iterate()
            if history.iteration % (config.keep_every or history.iteration + 1) == 0:
                self._keep_policies()
            if time.monotonic() - saved >= config.save_seconds:
                snapshot.save(self.snapshot, self.state, dataclasses.asdict(history))
                saved = time.monotonic()
        if config.keep_every:
            self._keep_policies()
        after = self._evaluate("after", keep)
        count = history.iteration
        return [
            JobResult(
                task=job.task,
                sentence=job.sentence,
                seed=job.seed,
                group=self.name,
                before=history.before[i],
                after=after[i],
                env_steps=count * self.trainer.steps_per_iteration,
                queries=count * self.trainer.queries_per_iteration,
                seconds=round(history.seconds, 3),
                curve=history.curves[i],
            )
            for i, job in enumerate(self.wanted)
        ]

    def _resume(self) -> None:
        found = snapshot.restore(self.snapshot, self.state)
        if found is not None:
            self.state, extra = found
            self.history = _History(**extra)
            self._forget_later_lines()

    def _enough(self) -> bool:
        goal, curves = self.config.stop_at, self.history.curves
        if goal is None or len(curves[0]) < STOP_OVER:
            return False
        recent = [row["quiet_perceived"] for c in curves for row in c[-STOP_OVER:]]
        means = np.reshape(recent, (len(curves), STOP_OVER)).mean(axis=1)
        return bool(np.all(means >= goal))

    def _iterate(self) -> None:
        history, start = self.history, time.monotonic()
        self.state, outcome = self.trainer.learn(self.state, self.work)
        metrics = jax.device_get(outcome.metrics)
        history.seconds += time.monotonic() - start
        history.iteration += 1
        steps = history.iteration * self.trainer.steps_per_iteration
        for i, job in enumerate(self.wanted):
            row = {"env_steps": steps, "learning_seconds": round(history.seconds, 3)}
            row |= _scalars(metrics, i)
            history.curves[i].append(row)
            identity = {"group": self.name, "task": job.task, "seed": job.seed}
            rewarder = {"rewarder": self.trainer.rewarder.name}
            self.run.log(history.iteration, identity | rewarder | row)
        last = [curve[-1] for curve in history.curves]
        note = "true {:.2f} perceived {:.2f}".format(
            np.mean([row["quiet_success"] for row in last]),
            np.mean([row["perceived_success"] for row in last]),
        )
        self.bar.update(self.shown + steps * len(self.wanted), note)

    def _keep_policies(self) -> None:
        agent, folder = self.trainer.agent, self.run.folder / "policies"
        found = jax.device_get(agent.policy(self.state.agent))
        for i, job in enumerate(self.wanted):
            first = i * agent.devices
            policy = policies.Policy(
                job.task,
                agent.activation,
                self.trainer.policy_image,
                jax.tree.map(lambda x, first=first: x[first], found),
            )
            name = f"{job.task}-seed{job.seed}-{self.history.iteration:04d}.npz"
            policies.save(folder / name, policy)

    def _evaluate(self, stage: str, keep: Keep) -> list[dict[str, float]]:
        self.state, found, record = self.trainer.evaluate(
            self.state, self.work, self.config.episodes
        )
        record = jax.device_get(record)
        for i, job in enumerate(self.wanted):
            keep(job, stage, jax.tree.map(lambda x, i=i: x[i], record))
        return [e.as_dict() for e in found[: len(self.wanted)]]

    def _forget_later_lines(self) -> None:
        """Drops this group's metrics that a killed command wrote after its snapshot."""
        path = self.run.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = [
            line for line in path.read_text().splitlines() if not self._is_later(line)
        ]
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def _is_later(self, line: str) -> bool:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return True
        return row["group"] == self.name and row["step"] > self.history.iteration


def _scalars(metrics: dict[str, Any], run: int) -> dict[str, float]:
    """One run's metrics as a flat row of plain numbers."""
    flat = {**metrics["episodes"], **metrics["quiet"], **metrics["losses"]}
    flat["reward"] = metrics["reward"]
    return {name: round(float(value[run]), 5) for name, value in flat.items()}
