"""Pictures a second: this project's renderer beside `mujoco.mjx.render`.

Both draw B worlds of task scenes from the external camera, with a shadow-casting
directional light, colour and depth, on the same device, in one process. Ours differ in
all that scenes differ in; Warp's share the geoms' sizes and colours of the first world
and differ in joint positions.

Letters: B worlds, S side of a picture. Seconds are wall-clock, the best of some calls.
"""

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.envs import model, mujoco_bridge, tasks
from soler1_jax.envs.engine import mjx
from soler1_jax.envs.tabletop import Tabletop, TabletopConfig

_WARP = "mujoco.mjx.render (Warp)"


def best_seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the first call's seconds, with compilation, and the best of the next.

    Args:
      call: what is timed.
      repeats: calls after the first; with 0 the first is also the best.
    """
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return seconds[0], min(seconds[1:], default=seconds[0])


def require_warp() -> None:
    """Raise UserError unless mujoco.mjx.render can run."""
    if importlib.util.find_spec("warp") is None:
        raise UserError(
            "mujoco.mjx.render needs warp-lang, which is not installed; "
            "pip install 'soler1_jax[bench]', or add --no-warp"
        )


def measure(
    worlds: tuple[int, ...],
    sizes: tuple[int, ...],
    warp: bool,
    repeats: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield one row a renderer, number of worlds and size.

    Args:
      worlds: numbers B, each timed apart.
      sizes: sides in pixels.
      warp: whether to time mujoco.mjx.render.
      repeats: timed calls.
      seed: of the scenes.

    Yields:
      `renderer`, `worlds`, `size`, `shadows`, `frames_per_second`, `first_call_seconds`, and for
      the rows after Warp's `times_warp`.

    Raises:
      UserError: Warp is wanted and not installed.
    """
    if warp:
        require_warp()
    env = Tabletop(TabletopConfig(views=()))
    for count in worlds:
        chosen = np.linspace(0, len(tasks.TASKS) - 1, count).astype(np.int32)
        keys = jax.random.split(jax.random.key(seed), count)
        states = jax.jit(jax.vmap(env.reset_task))(keys, jnp.asarray(chosen))
        for size in sizes:
            calls = {}
            if warp:
                calls[_WARP, True] = _warp_call(states, size)
            for shadows in (True, False):
                calls["soler1_jax", shadows] = _our_call(env, states, size, shadows)
            yield from _rows(calls, size, count, repeats)


def _rows(
    calls: dict[tuple[str, bool], Callable[[], Any]],
    size: int,
    worlds: int,
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """Time the renderers in turn, so that a busy moment of the machine hits them all."""
    first = {name: best_seconds(call, 0)[0] for name, call in calls.items()}
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], best_seconds(call, 0)[0])
    warp_seconds = seconds.get((_WARP, True))
    for (renderer, shadows), best in seconds.items():
        row = {
            "renderer": renderer,
            "size": size,
            "shadows": shadows,
            "worlds": worlds,
            "frames_per_second": round(worlds / best, 1),
            "first_call_seconds": round(first[renderer, shadows], 2),
        }
        if warp_seconds and renderer != _WARP:
            row["times_warp"] = round(warp_seconds / best, 2)
        yield row


def _our_call(
    env: Tabletop, states: Any, size: int, shadows: bool
) -> Callable[[], Any]:
    def look(state: Any) -> tuple[jax.Array, jax.Array]:
        picture = env.render(state, model.VIEWS[0], size, shadows=shadows)
        return picture.rgb, picture.depth

    return functools.partial(jax.jit(jax.vmap(look)), states)


def _warp_call(states: Any, size: int) -> Callable[[], Any]:
    """Return Warp's drawing with the acceleration structure's refit, as a loop needs."""
    host, _ = mujoco_bridge.to_mujoco(jax.tree.map(lambda x: x[0], states))
    worlds = len(states.done)
    context = mjx.create_render_context(
        host,
        worlds,
        cam_res=(size, size),
        render_rgb=True,
        render_depth=True,
        use_shadows=True,
        cam_active=[host.camera(i).name == model.VIEWS[0] for i in range(host.ncam)],
    )
    physics = mjx.put_model(host, impl="warp")
    blank = mjx.make_data(host, impl="warp")

    def pose(position: jax.Array) -> mjx.Data:
        return mjx.kinematics(physics, blank.replace(qpos=position))

    data = jax.jit(jax.vmap(pose))(states.data.qpos)

    @jax.jit
    def draw(data: mjx.Data) -> tuple[jax.Array, jax.Array]:
        fitted = mjx.refit_bvh(physics, data, context.pytree())
        colour, depth, _ = mjx.render(physics, fitted, context.pytree())
        return colour, depth

    return functools.partial(draw, data)
