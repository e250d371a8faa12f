"""The loop that all training shares: steps, metrics, checkpoints, continuation.

A run is a list of stages with one train state. It may be killed at any moment; the
same command continues from the newest whole checkpoint and ends with the same bits.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from soler1_jax.common import termination
from soler1_jax.common.errors import Terminated, UserError
from soler1_jax.common.progress import Bar
from soler1_jax.common.run import Run, write_bytes
from soler1_jax.training import feed
from soler1_jax.training.state import TrainState

StepFn = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run with one kind of step.

    Attributes:
      name: shown and logged.
      steps: how many.
      step: jitted (state, batch) -> (state, scalar metrics); may donate the state.
      read: step within the stage -> numpy batch.
    """

    name: str
    steps: int
    step: StepFn
    read: Callable[[int], feed.Batch]


class Store(Protocol):
    """Where checkpoints of a run are kept."""

    def save(self, step: int, state: TrainState, extra: Mapping[str, Any]) -> None:
        """Writes one checkpoint; a half-written one must never be found again."""

    def restore(self, like: TrainState) -> tuple[TrainState, Mapping[str, Any]] | None:
        """The newest whole checkpoint with the shardings of `like`, if any."""

    def wait(self) -> None:
        """Returns once everything is written."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often the loop does what.

    Attributes:
      log_every: steps between two lines of metrics.jsonl.
      save_every: steps between two checkpoints.
      watch_every: steps between two calls of `watch`; 0 for only at the end of a
        stage.
    """

    log_every: int = 20
    save_every: int = 200
    watch_every: int = 0


Watch = Callable[[str, int, TrainState], Mapping[str, Any]]


def train(
    stages: Sequence[Stage],
    state: TrainState,
    run: Run,
    store: Store,
    mesh: Mesh,
    config: LoopConfig,
    watch: Watch | None = None,
) -> tuple[TrainState, float]:
    """Runs the stages from where the store left off.

    Args:
      stages: in order.
      state: the state before the first step, placed on the mesh. It is donated.
      run: where metrics go.
      store: where checkpoints go.
      mesh: for the batches.
      config: intervals.
      watch: (stage name, step, state) -> metrics, e.g. an evaluation.

    Returns:
      The last state, and seconds spent in all, over all continuations.

    Raises:
      UserError: a loss or gradient was not finite; the last good state is saved.
      Terminated: SIGTERM came, as it does before a machine is taken away; the state after
        the step at hand is saved.
    """
    restored = store.restore(state)
    elapsed = 0.0
    if restored is not None:
        state, extra = restored
        elapsed = float(extra["elapsed_s"])
    done = int(state.step)
    prune_metrics(run, done)
    session = _Session(run, store, config, watch, elapsed)
    start = 0
    with termination.noticed() as asked:
        for stage in stages:
            end = start + stage.steps
            if done < end:
                first = max(done, start)
                state = _run_stage(stage, start, first, state, mesh, session, asked)
            start = end
    return state, session.elapsed


@dataclasses.dataclass
class _Session:
    run: Run
    store: Store
    config: LoopConfig
    watch: Watch | None
    before: float
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.began

    def save(self, state: TrainState) -> None:
        self.store.save(int(state.step), state, {"elapsed_s": round(self.elapsed, 3)})


def _run_stage(
    stage: Stage,
    start: int,
    first: int,
    state: TrainState,
    mesh: Mesh,
    session: _Session,
    asked: Callable[[int], bool],
) -> TrainState:
    """Runs one stage from global step `first`; `start` is the stage's first one."""
    config, end = session.config, start + stage.steps
    feeding = feed.batches(stage.read, first - start, stage.steps, mesh)
    with Bar(stage.name, stage.steps, "steps", first - start) as bar:
        for step, batch in enumerate(feeding, first + 1):
            state, metrics = stage.step(state, batch)
            last = step == end
            if last or step % config.log_every == 0:
                values = {k: np.asarray(v).item() for k, v in metrics.items()}
                _check(values.pop("bad_step"), stage, start, state, session)
                session.run.log(step, {"stage": stage.name, **values})
                bar.update(step - start, f"loss {values['loss']:.4g}")
            watching = config.watch_every and step % config.watch_every == 0
            saving = step % config.save_every == 0
            stopping = asked(step)
            if last or saving or watching or stopping:
                _check(int(state.bad_step), stage, start, state, session)
            if session.watch and (last or watching):
                measured = session.watch(stage.name, step, state)
                session.run.log(step, {"stage": stage.name, **measured})
            if last or saving or stopping:
                session.save(state)
            if stopping:
                session.store.wait()
                raise Terminated(f"the state after step {step} is saved")
    return state


def _check(
    bad_step: int, stage: Stage, start: int, state: TrainState, session: _Session
) -> None:
    if bad_step < 0:
        return
    session.save(state.replace(bad_step=jax.numpy.full_like(state.bad_step, -1)))
    raise UserError(
        "losses and gradients must be finite; batch "
        f"{bad_step - start} of stage {stage.name} gave one that is not; the state "
        f"before it is saved in {session.run.folder}; lower the learning rate or look "
        "at that batch"
    )


def prune_metrics(run: Run, step: int) -> None:
    """Drops lines of metrics.jsonl after `step`: a continued run writes them again."""
    path = run.folder / "metrics.jsonl"
    run.trackers.forget_after(step)
    if not run.writes or not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            # the last line of a killed run may be cut short
            continue
    write_bytes(path, "".join(f"{line}\n" for line in kept).encode())
