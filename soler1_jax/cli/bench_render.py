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
from mujoco import mjx

from soler1_jax.common.errors import UserError
from soler1_jax.envs import model, mujoco_bridge, tasks
from soler1_jax.envs.tabletop import Tabletop, TabletopConfig


def best_seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the first call's seconds, with compilation, and the best of the next."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return seconds[0], min(seconds[1:])


def require_warp() -> None:
    """Raise UserError unless mujoco.mjx.render can run."""
    if importlib.util.find_spec("warp") is None:
        raise UserError(
            "mujoco.mjx.render needs warp-lang, which is not installed; "
            "pip install 'soler1_jax[bench]', or add --no-warp"
        )


def measure(
    worlds: int, sizes: tuple[int, ...], warp: bool, repeats: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield one row a renderer and size.

    Args:
      worlds: B.
      sizes: sides in pixels.
      warp: whether to time mujoco.mjx.render.
      repeats: timed calls.
      seed: of the scenes.

    Yields:
      `renderer`, `size`, `shadows`, `frames_per_second`, `first_call_seconds`, and for
      the rows after Warp's `times_warp`.

    Raises:
      UserError: Warp is wanted and not installed.
    """
    if warp:
        require_warp()
    env = Tabletop(TabletopConfig(views=()))
    chosen = np.linspace(0, len(tasks.TASKS) - 1, worlds).astype(np.int32)
    keys = jax.random.split(jax.random.key(seed), worlds)
    states = jax.jit(jax.vmap(env.reset_task))(keys, jnp.asarray(chosen))
    for size in sizes:
        reference = None
        if warp:
            reference = _warp_row(states, size, repeats)
            yield reference
        for shadows in (True, False):
            row = _our_row(env, states, size, shadows, repeats)
            if reference:
                ratio = row["frames_per_second"] / reference["frames_per_second"]
                row["times_warp"] = round(ratio, 2)
            yield row


def _row(
    renderer: str, size: int, shadows: bool, worlds: int, seconds: tuple[float, float]
) -> dict[str, Any]:
    return {
        "renderer": renderer,
        "size": size,
        "shadows": shadows,
        "worlds": worlds,
        "frames_per_second": round(worlds / seconds[1], 1),
        "first_call_seconds": round(seconds[0], 2),
    }


def _our_row(
    env: Tabletop, states: Any, size: int, shadows: bool, repeats: int
) -> dict[str, Any]:
    def look(state: Any) -> tuple[jax.Array, jax.Array]:
        picture = env.render(state, model.VIEWS[0], size, shadows=shadows)
        return picture.rgb, picture.depth

    draw = jax.jit(jax.vmap(look))
    seconds = best_seconds(functools.partial(draw, states), repeats)
    return _row("soler1_jax", size, shadows, len(states.done), seconds)


def _warp_row(states: Any, size: int, repeats: int) -> dict[str, Any]:
    """Time Warp's renderer with the acceleration structure's refit, as a loop needs."""
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

    seconds = best_seconds(functools.partial(draw, data), repeats)
    return _row("mujoco.mjx.render (Warp)", size, True, worlds, seconds)
