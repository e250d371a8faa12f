"""Control steps a second of the whole loop, part by part, and of a server in its place.

Every row runs episodes of the same task in B worlds. The rows add physics, the policy's
pixels, the policy, the rewarder (asked every k control steps) and learning; each is one
compiled program. The server's rows run the policy's part compiled as before and ask the
same weights in another process: one request a world and query, or one a batch.

Letters: B worlds, Q queries, k control steps between two queries, T = Q k control steps.
Seconds are wall-clock, the best of some episodes, without compilation.
"""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.cli.bench_render import best_seconds
from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder, TaskText
from soler1_jax.envs import tasks
from soler1_jax.envs.tabletop import Tabletop, TabletopConfig
from soler1_jax.reward.load import load_rewarder
from soler1_jax.rl.chunk import ChunkConfig, make_collect
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.types import Agent, observe, shapes_of
from soler1_jax.serving.client import RewardClient

EPISODE = 40


class _Bench:
    """What all rows share: an environment, an agent, a rewarder and a task."""

    def __init__(self, rewarder: str, worlds: int, task: str, repeats: int, seed: int):
        self.task = tasks.task_index(task)
        self.sentence = tasks.TASKS[self.task].sentence
        self.rewarder: Rewarder = load_rewarder(rewarder)
        self.env = Tabletop(TabletopConfig())
        self.worlds, self.repeats = worlds, repeats
        config = DrQConfig(worlds=worlds)
        self.agent: Agent = make_drqv2(config, shapes_of(self.env), EPISODE)
        self.key = jax.random.key(seed)
        self.state = jax.jit(self.agent.init)(self.key)

    def row(
        self, name: str, call: Callable[[], Any], every: int | None = None
    ) -> dict[str, Any]:
        """Time episodes and return their row."""
        first, best = best_seconds(call, self.repeats)
        steps = self.worlds * EPISODE
        return {
            "part": name,
            "every": every,
            "worlds": self.worlds,
            "control_steps_per_second": round(steps / best, 1),
            "first_call_seconds": round(first, 2),
        }

    def reset(self, env: Tabletop, key: jax.Array) -> Any:
        """Return fresh episodes in all worlds."""
        keys = jax.random.split(key, self.worlds)
        return jax.vmap(env.reset_task, in_axes=(0, None))(keys, self.task)

    def text(self) -> TaskText:
        """Return the task as the rewarder reads it, [1, L]."""
        return self.rewarder.prepare([self.sentence])


def measure(
    rewarder: str,
    worlds: int,
    every: tuple[int, ...],
    task: str,
    server: bool,
    repeats: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield one row a part of the loop.

    Args:
      rewarder: as `load_rewarder` takes it; not the oracle if `server`.
      worlds: B.
      every: values of k, divisors of the episode's 40 control steps.
      task: a task's name.
      server: whether to time a server process too.
      repeats: timed episodes.
      seed: of scenes, policy and rewarder.

    Yields:
      `part`, `every`, `control_steps_per_second`, `first_call_seconds`; the server's
      rows have `times_slower` than the same work in one program.

    Raises:
      UserError: an unknown task or rewarder, or a k that does not divide the episode.
    """
    for k in every:
        if k < 1 or EPISODE % k:
            raise UserError(
                f"--every divides the episode's {EPISODE} control steps; got {k}; "
                "choose 5 or 10"
            )
    if server and rewarder == "oracle":
        raise UserError(
            "a server knows no truth; got rewarder 'oracle'; choose another"
        )
    bench = _Bench(rewarder, worlds, task, repeats, seed)
    blind = Tabletop(TabletopConfig(views=()))
    yield bench.row("physics", _random_actions(bench, blind))
    yield bench.row("+ pixels", _random_actions(bench, bench.env))
    yield bench.row("+ policy", _policy(bench))
    joined = {}
    for k in every:
        joined[k] = bench.row("+ rewarder", _collect(bench, k), k)
        yield joined[k]
    for k in every:
        yield bench.row("+ learning", _learn(bench, k), k)
    if not server:
        return
    with _serve(rewarder) as port:
        for k in every:
            for name, sessions in (("batch", 1), ("world", worlds)):
                call = _remote(bench, port, k, sessions)
                row = bench.row(f"server, one request a {name}", call, k)
                ours = joined[k]["control_steps_per_second"]
                ratio = ours / row["control_steps_per_second"]
                yield row | {"times_slower": round(ratio, 2)}


def _random_actions(bench: _Bench, env: Tabletop) -> Callable[[], Any]:
    """Return a call that runs one episode of random actions."""

    def step(carry: tuple, key: jax.Array) -> tuple:
        state, seen = carry
        shape = (bench.worlds, env.action_size)
        action = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        state = jax.vmap(env.step)(state, action)
        # every pixel is used, so that none is optimised away
        pixels = [x for name, x in state.obs.items() if name.startswith("pixels")]
        seen += sum(jnp.sum(x, dtype=jnp.int32) for x in pixels)
        return (state, seen), None

    def episode(key: jax.Array) -> Any:
        begin, key = jax.random.split(key)
        carry = (bench.reset(env, begin), jnp.int32(0))
        (state, seen), _ = jax.lax.scan(step, carry, jax.random.split(key, EPISODE))
        return state.data.qpos, seen

    return functools.partial(jax.jit(episode), bench.key)


def _act(bench: _Bench, learner: Any, carry: tuple, key: jax.Array) -> tuple:
    state, memory = carry
    seen = observe(state.obs)
    memory, action, _ = bench.agent.act(learner, memory, seen, key)
    return (jax.vmap(bench.env.step)(state, jnp.clip(action, -1.0, 1.0)), memory), seen


def _policy(bench: _Bench) -> Callable[[], Any]:
    """Return a call that runs one episode of the policy and keeps what it saw."""

    def episode(learner: Any, key: jax.Array) -> Any:
        begin, key = jax.random.split(key)
        memory = bench.agent.begin(learner, jnp.float32(1.0))
        carry = (bench.reset(bench.env, begin), memory)
        act = functools.partial(_act, bench, learner)
        (state, _), seen = jax.lax.scan(act, carry, jax.random.split(key, EPISODE))
        return state.data.qpos, seen

    return functools.partial(jax.jit(episode), bench.state, bench.key)


def _collector(bench: _Bench, every: int) -> Callable[..., Any]:
    config = ChunkConfig(every=every, queries=EPISODE // every)
    return make_collect(bench.env, bench.rewarder, bench.agent, config)


def _collect(bench: _Bench, every: int) -> Callable[[], Any]:
    """Return a call that runs one rewarded episode in one program."""
    collect, text = jax.jit(_collector(bench, every)), bench.text()
    arguments = (bench.state, bench.rewarder.params, jnp.int32(bench.task), text)
    return lambda: collect(*arguments, jnp.float32(1.0), bench.key)


def _learn(bench: _Bench, every: int) -> Callable[[], Any]:
    """Return a call that runs one rewarded episode and learns from it."""
    collect, text = _collector(bench, every), bench.text()

    def iterate(learner: Any, params: Any, key: jax.Array) -> Any:
        task, explore = jnp.int32(bench.task), jnp.float32(1.0)
        episode, _ = collect(learner, params, task, text, explore, key)
        return bench.agent.learn(learner, episode, key, jnp.bool_(True))[0]

    program = jax.jit(iterate, donate_argnums=0)
    learner = [jax.tree.map(jnp.copy, bench.state)]

    def call() -> Any:
        learner[0] = program(learner[0], bench.rewarder.params, bench.key)
        return learner[0]

    return call


@contextlib.contextmanager
def _serve(rewarder: str) -> Iterator[int]:
    """Run a server process and give its port."""
    command = [sys.executable, "-m", "soler1_jax.serving.server"]
    process = subprocess.Popen(
        [*command, "--rewarder", rewarder],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on port "):
            raise UserError(
                "the reward server must start; it ended before it listened; "
                f"try: python -m soler1_jax.serving.server --rewarder {rewarder}"
            )
        yield int(line.split()[-1])
    finally:
        process.terminate()
        process.wait(timeout=30)


def _remote(bench: _Bench, port: int, every: int, sessions: int) -> Callable[[], Any]:
    """Return a call that runs one episode and asks a server at every query.

    Args:
      bench: what all rows share.
      port: of the server.
      every: k.
      sessions: requests a query; each holds B / sessions episodes.
    """
    size, views = bench.rewarder.image_size, bench.rewarder.views

    def look(state: Any) -> dict[str, jax.Array]:
        def one(world: Any) -> dict[str, jax.Array]:
            return {view: bench.env.render(world, view, size).rgb for view in views}

        return jax.vmap(one)(state) if views else {}

    @jax.jit
    def begin(learner: Any, key: jax.Array) -> tuple:
        state = bench.reset(bench.env, key)
        return (state, bench.agent.begin(learner, jnp.float32(1.0))), look(state)

    @jax.jit
    def advance(learner: Any, carry: tuple, key: jax.Array) -> tuple:
        act = functools.partial(_act, bench, learner)
        carry, seen = jax.lax.scan(act, carry, jax.random.split(key, every))
        return carry, look(carry[0]), seen

    parts = np.array_split(np.arange(bench.worlds), sessions)
    client = RewardClient(port)

    def split(frames: dict[str, np.ndarray], part: np.ndarray) -> dict:
        return {view: frame[part] for view, frame in frames.items()}

    def call() -> list[np.ndarray]:
        carry, frames = begin(bench.state, bench.key)
        frames, progress = jax.device_get(frames), []
        for index, part in enumerate(parts):
            client.start(str(index), split(frames, part), [bench.sentence] * len(part))
        for key in jax.random.split(bench.key, EPISODE // every):
            carry, frames, _ = advance(bench.state, carry, key)
            frames = jax.device_get(frames)
            for index, part in enumerate(parts):
                verdict = client.score(str(index), split(frames, part))
                progress.append(verdict["progress"])
        return progress

    return call
