"""A rollout that asks a rewarder every k control steps, all inside one trace.

Act k steps, render what the rewarder sees, ask it for progress, interpolate progress
linearly between this query and the last one, and so get k rewarded steps; then the next
k (arXiv 2603.28730, section 4: the model is asked about once a second). The rewarder's
views are rendered at the queries only. Progress at the first frame is 0 by definition;
nobody is asked about it. The truth goes to evaluation, and to a rewarder that declares
`uses_truth` (the oracle); never to the agent.

Letters: T = Q * k control steps, Q queries, B worlds. Progress in percent.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import require_positive
from soler1_jax.common.rewarder import Rewarder, TaskText, Verdict, Views
from soler1_jax.rl.types import (
    Agent,
    Environment,
    EpisodeRecord,
    Trajectory,
    observe,
)


@dataclasses.dataclass(frozen=True)
class ChunkConfig:
    """How progress becomes reward.

    Attributes:
      every: k, control steps between two queries.
      queries: Q, queries an episode; the episode has k * Q control steps.
      scale: psi, reward of one percent of progress.
      bound: c, percent at which progress is cut before it is scaled.
    """

    every: int = 5
    queries: int = 8
    scale: float = 0.01
    bound: float = 100.0

    def __post_init__(self) -> None:
        require_positive("control steps between queries", self.every)
        require_positive("queries an episode", self.queries)

    @property
    def steps(self) -> int:
        """T, control steps of an episode."""
        return self.every * self.queries


Collect = Callable[..., tuple[Trajectory, EpisodeRecord]]


def interpolate(before: jax.Array, after: jax.Array, every: int) -> jax.Array:
    """Progress at the k steps after one query up to the next one.

    Args:
      before: float32 [B], percent, at the last query (or the first frame: 0).
      after: float32 [B], percent, now.
      every: k.

    Returns:
      float32 [k, B]; its last row is `after`.
    """
    fraction = jnp.arange(1, every + 1, dtype=jnp.float32)[:, None] / every
    return before + fraction * (after - before)


def make_collect(
    env: Environment, rewarder: Rewarder, agent: Agent, config: ChunkConfig
) -> Collect:
    """Builds the rollout of one episode in all worlds.

    Returns:
      (agent state, rewarder params, task int32 [], TaskText [1, L], explore float32 [],
      key) -> (Trajectory, EpisodeRecord); pure and traceable, static shapes.
    """
    worlds = agent.worlds

    def look(state: Any) -> Views:
        def one(world: Any) -> Views:
            size = rewarder.image_size
            return {v: env.render(world, v, size).rgb for v in rewarder.views}

        return jax.vmap(one)(state) if rewarder.views else {}

    def act(agent_state: Any, carry: Any, key: jax.Array) -> tuple[Any, Any]:
        state, policy, success = carry
        seen = observe(state.obs)
        policy, action, extras = agent.act(agent_state, policy, seen, key)
        state = jax.vmap(env.step)(state, jnp.clip(action, -1.0, 1.0))
        success = jnp.maximum(success, state.metrics["success"])
        return (state, policy, success), (seen, action, extras)

    def chunk(
        agent_state: Any, params: Any, carry: Any, key: jax.Array
    ) -> tuple[Any, Any]:
        world, memory, before = carry
        act_key, score_key = jax.random.split(key)
        world, steps = jax.lax.scan(
            lambda c, k: act(agent_state, c, k),
            world,
            jax.random.split(act_key, config.every),
        )
        state = world[0]
        views = look(state)
        true = state.metrics["progress"]
        truth = true if rewarder.uses_truth else None
        memory, verdict = rewarder.score(params, memory, views, score_key, truth)
        progress = interpolate(before, verdict.progress, config.every)
        reward = config.scale * jnp.clip(progress, -config.bound, config.bound)
        noted = (views, verdict, true)
        return (world, memory, verdict.progress), (steps, reward, noted)

    def collect(
        agent_state: Any,
        params: Any,
        task: jax.Array,
        text: TaskText,
        explore: jax.Array,
        key: jax.Array,
    ) -> tuple[Trajectory, EpisodeRecord]:
        reset_key, start_key, key = jax.random.split(key, 3)
        reset_keys = jax.random.split(reset_key, worlds)
        state = jax.vmap(env.reset_task, in_axes=(0, None))(reset_keys, task)
        text = jax.tree.map(lambda x: jnp.repeat(x, worlds, axis=0), text)
        views = look(state)
        memory = rewarder.start(params, views, text, start_key)
        nothing = jnp.zeros(worlds, jnp.float32)
        world = (state, agent.begin(agent_state, explore), nothing)
        (world, _, _), (steps, reward, noted) = jax.lax.scan(
            lambda c, k: chunk(agent_state, params, c, k),
            (world, memory, nothing),
            jax.random.split(key, config.queries),
        )
        final, _, success = world
        return (
            _trajectory(steps, reward, observe(final.obs)),
            _record(views, noted, success),
        )

    return collect


def _trajectory(steps: Any, reward: jax.Array, last: Any) -> Trajectory:
    """Joins chunks [Q, k, B, ...] into one time axis [T, B, ...]."""
    seen, action, extras = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)
    seen = jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), seen, last)
    return Trajectory(seen, action, reward.reshape(-1, reward.shape[-1]), extras)


def _record(
    first: Views, noted: tuple[Views, Verdict, jax.Array], success: jax.Array
) -> EpisodeRecord:
    views, verdict, true = noted

    def from_zero(x: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.zeros_like(x[:1]), x])

    frames = {v: jnp.concatenate([first[v][None], views[v]]) for v in views}
    return EpisodeRecord(
        frames=frames,
        predicted=from_zero(verdict.progress),
        expected=from_zero(verdict.expected),
        entropy=verdict.entropy,
        tokens=verdict.tokens,
        parsed=verdict.parsed,
        true=from_zero(true),
        success=success,
    )
