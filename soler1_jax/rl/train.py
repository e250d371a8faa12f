"""Learning with a rewarder: places and runs the program of `rl/iteration.py`.

The iteration's metrics stay on the devices until they are asked for.

Letters: R runs, D devices of a run, B worlds of a run, L words of the task.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from soler1_jax.common.errors import UserError, require_non_negative
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.rl import evaluate, iteration
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.iteration import Assignment, LoopState, Mode, Outcome, make_mode
from soler1_jax.rl.types import Agent, Environment, EpisodeRecord, shapes_of


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
        self.mesh = iteration.make_mesh(devices, agent)
        self._programs = iteration.make_programs(
            env, rewarder, agent, config, self.mesh
        )
        place = self._programs.placement
        self._split = place.by_run
        self.params = jax.device_put(rewarder.params, place.whole)
        learning = make_mode(1.0, learn=True)
        watching = make_mode(0.0, learn=False)
        self._learning = jax.device_put(learning, place.whole)
        self._watching = jax.device_put(watching, place.whole)
        self._program: Any = None

    @property
    def runs(self) -> int:
        """R, how many runs are learned at once."""
        return self.mesh.shape[iteration.RUNS]

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
        return self._programs.init(
            jax.device_put(np.asarray(seeds, np.uint32), self._split)
        )

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
            self._program = self._programs.iterate.lower(*arguments).compile()
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

    def _check(self, what: str, values: Sequence[Any]) -> None:
        if len(values) != self.runs:
            raise UserError(
                f"a trainer of {self.runs} runs takes as many {what}; "
                f"got {len(values)}; give one a run"
            )
