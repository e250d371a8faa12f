"""Learning with a rewarder: one compiled program for acting, asking and learning.

Several runs (a task and a seed each) are learned at once by one program, each on its
own device or on several that share its worlds; nothing is exchanged between runs. Task
and text are run-time values, and so is whether an iteration explores and learns; so one
compilation serves all tasks, seeds and evaluations. Nothing crosses to the host inside
an iteration; its metrics stay on the device until they are asked for.

Letters: R runs, D devices of a run, B worlds of a run, L words of the task.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soler1_jax.common.errors import UserError, require_non_negative
from soler1_jax.common.rewarder import Rewarder, TaskText
from soler1_jax.rl import evaluate, shards
from soler1_jax.rl.chunk import ChunkConfig, make_collect
from soler1_jax.rl.types import Agent, Environment, EpisodeRecord, shapes_of

_RUNS = "run"


@flax.struct.dataclass
class LoopState:
    """What is carried from iteration to iteration, a copy a device; donated to each."""

    agent: Any
    key: jax.Array
    iteration: jax.Array  # int32 [], learning iterations done


class Assignment(NamedTuple):
    """What each run learns, on the devices."""

    task: jax.Array  # int32 [R]
    text: TaskText  # ids int32 [R, L], mask bool [R, L]


class Mode(NamedTuple):
    """What an iteration is for; run-time values."""

    explore: jax.Array  # float32 []
    learn: jax.Array  # bool []


class Outcome(NamedTuple):
    """What an iteration leaves on the devices, with leading axis R."""

    metrics: dict[str, jax.Array]
    record: EpisodeRecord


class Trainer:
    """Binds environment, rewarder and agent into one compiled iteration.

    Args:
      env: one world; vectorised here.
      rewarder: gives progress; its `params` are placed on every device.
      agent: learns.
      config: queries and reward.
      devices: the agent's number of them for each run.
    """

    def __init__(
        self,
        env: Environment,
        rewarder: Rewarder,
        agent: Agent,
        config: ChunkConfig,
        devices: Sequence[jax.Device],
    ):
        self.rewarder, self.agent, self.config = rewarder, agent, config
        self.policy_image = shapes_of(env).image[0]
        grid = np.asarray(devices).reshape(-1, agent.devices)
        self.mesh = Mesh(grid, (_RUNS, shards.AXIS))
        self._whole = NamedSharding(self.mesh, PartitionSpec())
        self._split = NamedSharding(self.mesh, PartitionSpec(_RUNS))
        every = NamedSharding(self.mesh, PartitionSpec((_RUNS, shards.AXIS)))
        self.params = jax.device_put(rewarder.params, self._whole)
        self._learning = self._mode(explore=1.0, learn=True)
        self._watching = self._mode(explore=0.0, learn=False)
        one, split = self._whole, self._split
        self._init = self._jit(_for_one_run(self._init_one), (split,), every)
        iterate = _make_iteration(env, rewarder, agent, config)

        def local(
            state: LoopState, work: Assignment, params: Any, mode: Mode
        ) -> tuple[LoopState, Outcome]:
            run = _for_one_run(lambda s, w: iterate(s, w, params, mode))
            return run(state, work)

        results = (every, Outcome(split, _record_shardings(self.mesh)))
        self._iterate = self._jit(local, (every, split, one, one), results, donate=(0,))
        self._program: Any = None

    def _jit(
        self,
        local: Any,
        arguments: tuple[NamedSharding, ...],
        results: Any,
        donate: tuple[int, ...] = (),
    ) -> Any:
        """Jits what one device does."""
        mapped = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=tuple(argument.spec for argument in arguments),
            out_specs=jax.tree.map(lambda sharding: sharding.spec, results),
            check_vma=False,
        )
        # Stated outright: left to XLA, a result of one element comes back with
        # another sharding than it went in with, and the next call compiles again.
        return jax.jit(
            mapped,
            in_shardings=arguments,
            out_shardings=results,
            donate_argnums=donate,
        )

    @property
    def runs(self) -> int:
        """R, how many runs are learned at once."""
        return self.mesh.shape[_RUNS]

    @property
    def worlds(self) -> int:
        """B, episodes that one run collects at once."""
        return self.agent.worlds * self.agent.devices

    @property
    def steps_per_iteration(self) -> int:
        """Control steps that one iteration of one run takes."""
        return self.worlds * self.config.steps

    @property
    def queries_per_iteration(self) -> int:
        """Questions that one iteration of one run asks."""
        return self.worlds * self.config.queries

    def init(self, seeds: Sequence[int]) -> LoopState:
        """Draws fresh agents.

        Args:
          seeds: one a run; not negative.

        Raises:
          UserError: a seed is negative, or there are not R of them.
        """
        self._check("seeds", seeds)
        for seed in seeds:
            require_non_negative("a seed", seed)
        return self._init(jax.device_put(np.asarray(seeds, np.uint32), self._split))

    def assign(self, tasks: Sequence[int], sentences: Sequence[str]) -> Assignment:
        """Places each run's task and sentence on its device."""
        self._check("tasks", tasks)
        text = self.rewarder.prepare(list(sentences))
        work = Assignment(np.asarray(tasks, np.int32), text)
        return jax.device_put(work, self._split)

    def compile(self, state: LoopState, work: Assignment) -> float:
        """Compiles the iteration if it is not yet; returns the seconds it took.

        The program takes any task, text and mode, and can never compile again: other
        shapes are an error.
        """
        start = time.monotonic()
        if self._program is None:
            arguments = (state, work, self.params, self._learning)
            self._program = self._iterate.lower(*arguments).compile()
        return time.monotonic() - start

    def _call(
        self, state: LoopState, work: Assignment, mode: Mode
    ) -> tuple[LoopState, Outcome]:
        self.compile(state, work)
        return self._program(state, work, self.params, mode)

    def learn(self, state: LoopState, work: Assignment) -> tuple[LoopState, Outcome]:
        """Collects one episode in every world and learns from it; donates `state`."""
        return self._call(state, work, self._learning)

    def watch(self, state: LoopState, work: Assignment) -> tuple[LoopState, Outcome]:
        """Collects noise-free episodes and learns nothing; donates `state`."""
        return self._call(state, work, self._watching)

    def evaluate(
        self, state: LoopState, work: Assignment, episodes: int = 64
    ) -> tuple[LoopState, list[evaluate.Evaluation], EpisodeRecord]:
        """Measures the noise-free policies on fresh episodes.

        Args:
          episodes: at least so many; whole batches of B are taken.

        Returns:
          The state, one Evaluation a run, and the last batch's episodes.
        """
        parts = []
        for _ in range(-(-episodes // self.worlds)):
            state, outcome = self.watch(state, work)
            parts.append(jax.device_get(outcome.metrics["episodes"]))
        return state, evaluate.combine(parts, self.worlds), outcome.record

    def _init_one(self, seed: jax.Array) -> LoopState:
        agent_key, key = jax.random.split(jax.random.key(seed))
        if self.agent.devices > 1:
            key = jax.random.fold_in(key, jax.lax.axis_index(shards.AXIS))
        return LoopState(self.agent.init(agent_key), key, jnp.int32(0))

    def _mode(self, *, explore: float, learn: bool) -> Mode:
        return jax.device_put(Mode(np.float32(explore), np.bool_(learn)), self._whole)

    def _check(self, what: str, values: Sequence[Any]) -> None:
        if len(values) != self.runs:
            raise UserError(
                f"a trainer of {self.runs} runs takes as many {what}; "
                f"got {len(values)}; give one a run"
            )


def _make_iteration(
    env: Environment, rewarder: Rewarder, agent: Agent, config: ChunkConfig
) -> Any:
    collect = make_collect(env, rewarder, agent, config)

    def iterate(
        state: LoopState, work: Assignment, params: Any, mode: Mode
    ) -> tuple[LoopState, Outcome]:
        key, collect_key, learn_key = jax.random.split(state.key, 3)
        text = jax.tree.map(lambda x: x[None], work.text)
        episode, record = collect(
            state.agent, params, work.task, text, mode.explore, collect_key
        )
        learned, losses = agent.learn(state.agent, episode, learn_key, mode.learn)
        state = LoopState(learned, key, state.iteration + mode.learn.astype(jnp.int32))
        metrics = {
            "episodes": evaluate.summary(record),
            "quiet": evaluate.quiet_summary(record, agent.quiet),
            "reward": jnp.mean(episode.reward),
            "losses": losses,
        }
        return state, Outcome(shards.mean(metrics, agent.devices), record)

    return iterate


def _record_shardings(mesh: Mesh) -> EpisodeRecord:
    """Joins the worlds of a run's devices: [R, Q, B, ...], but success [R, B]."""
    by_query = NamedSharding(mesh, PartitionSpec(_RUNS, None, shards.AXIS))
    by_world = NamedSharding(mesh, PartitionSpec(_RUNS, shards.AXIS))
    fields = [field.name for field in dataclasses.fields(EpisodeRecord)]
    return EpisodeRecord(
        **{name: by_world if name == "success" else by_query for name in fields}
    )


def _for_one_run(function: Any) -> Any:
    """Removes the run axis, which has length 1 on a device, and puts it back."""

    def local(*args: Any) -> Any:
        result = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], result)

    return local
