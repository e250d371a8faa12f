"""One compiled iteration of learning: acting, asking and learning, on a mesh of devices.

Several runs (a task and a seed each) are learned at once by one program, each on its
own device or on several that share its worlds; nothing is exchanged between runs. Task
and text are run-time values, and so is whether an iteration explores and learns; so one
compilation serves all tasks, seeds and evaluations. Nothing crosses to the host inside
an iteration.

Letters: R runs, D devices of a run, B worlds of a run, L words of the task.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soler1_jax.common.rewarder import Rewarder, TaskText
from soler1_jax.rl import evaluate, shards
from soler1_jax.rl.chunk import ChunkConfig, make_collect
from soler1_jax.rl.types import Agent, Environment, EpisodeRecord

RUNS = "run"


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


def make_mode(explore: float, *, learn: bool) -> Mode:
    """What an iteration is for, on the host."""
    return Mode(np.float32(explore), np.bool_(learn))


class Outcome(NamedTuple):
    """What an iteration leaves on the devices, with leading axis R."""

    metrics: dict[str, jax.Array]
    record: EpisodeRecord


class Placement(NamedTuple):
    """How arrays lie on the mesh."""

    whole: NamedSharding  # the same on every device
    by_run: NamedSharding  # [R, ...], a run's on all of its devices
    by_device: NamedSharding  # [R * D, ...], one each


class Programs(NamedTuple):
    """Jitted functions over a mesh; nothing is placed or compiled yet.

    Attributes:
      init: seeds uint32 [R] -> LoopState.
      iterate: (LoopState, Assignment, rewarder's params, Mode) -> (LoopState, Outcome);
        donates the state.
      placement: of their arguments: seeds and assignment by run, state by device, params
        and mode whole.
    """

    init: Any
    iterate: Any
    placement: Placement


def make_mesh(devices: Sequence[jax.Device], agent: Agent) -> Mesh:
    """A mesh of runs and of the devices of each; the number of all is R * D."""
    return Mesh(np.asarray(devices).reshape(-1, agent.devices), (RUNS, shards.AXIS))


def make_programs(
    env: Environment,
    rewarder: Rewarder,
    agent: Agent,
    config: ChunkConfig,
    mesh: Mesh,
) -> Programs:
    """Binds environment, rewarder and agent into one iteration.

    Args:
      env: one world; vectorised here.
      rewarder: gives progress; its `params` are an argument of the program.
      agent: learns.
      config: queries and reward.
      mesh: of `make_mesh`; its devices need not be there.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    by_run = NamedSharding(mesh, PartitionSpec(RUNS))
    by_device = NamedSharding(mesh, PartitionSpec((RUNS, shards.AXIS)))
    iterate = _make_iteration(env, rewarder, agent, config)

    def init_one(seed: jax.Array) -> LoopState:
        agent_key, key = jax.random.split(jax.random.key(seed))
        if agent.devices > 1:
            key = jax.random.fold_in(key, jax.lax.axis_index(shards.AXIS))
        return LoopState(agent.init(agent_key), key, jnp.int32(0))

    def local(
        state: LoopState, work: Assignment, params: Any, mode: Mode
    ) -> tuple[LoopState, Outcome]:
        run = _for_one_run(lambda s, w: iterate(s, w, params, mode))
        return run(state, work)

    results = (by_device, Outcome(by_run, _record_shardings(mesh)))
    arguments = (by_device, by_run, whole, whole)
    return Programs(
        init=_jit(_for_one_run(init_one), mesh, (by_run,), by_device),
        iterate=_jit(local, mesh, arguments, results, donate=(0,)),
        placement=Placement(whole, by_run, by_device),
    )


def _jit(
    local: Any,
    mesh: Mesh,
    arguments: tuple[NamedSharding, ...],
    results: Any,
    donate: tuple[int, ...] = (),
) -> Any:
    """Jits what one device does."""
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(argument.spec for argument in arguments),
        out_specs=jax.tree.map(lambda sharding: sharding.spec, results),
        check_vma=False,
    )
    # Stated outright: left to XLA, a result of one element comes back with another
    # sharding than it went in with, and the next call compiles again.
    return jax.jit(
        mapped, in_shardings=arguments, out_shardings=results, donate_argnums=donate
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
    by_query = NamedSharding(mesh, PartitionSpec(RUNS, None, shards.AXIS))
    by_world = NamedSharding(mesh, PartitionSpec(RUNS, shards.AXIS))
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
