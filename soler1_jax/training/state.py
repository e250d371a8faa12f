"""The state of a training run and how one gradient changes it.

A state that met a loss or gradient that is not finite freezes: parameters, moments and
step stay as they were before the bad batch, and `bad_step` tells which batch it was.
So the host may look only now and then and still holds the last good state.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from soler1_jax.common import mesh as meshes

Params = Any


@flax.struct.dataclass
class TrainState:
    """All that a step needs and changes."""

    step: jax.Array  # int32 [], batches used so far
    params: Params  # float32 pytree
    opt_state: optax.OptState
    key: jax.Array  # uint32 [2], data of the run's random key; never changes
    bad_step: jax.Array  # int32 [], the first batch that was not finite, or -1


def create(
    params: Params, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(jax.random.key(seed)),
        bad_step=jnp.full((), -1, jnp.int32),
    )


def step_key(state: TrainState) -> jax.Array:
    """The random key of the state's current step: a function of seed and step."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def apply_gradients(
    state: TrainState,
    loss: jax.Array,
    grads: Params,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, or a frozen state if loss or gradient is not finite.

    Returns:
      The next state, and the metrics `grad_norm` (float32, before clipping) and
      `bad_step` (int32).
    """
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(loss) & jnp.isfinite(norm) & (state.bad_step < 0)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    kept = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    bad_step = jnp.where(good | (state.bad_step >= 0), state.bad_step, state.step)
    following = state.replace(
        step=state.step + good.astype(jnp.int32),
        params=kept[0],
        opt_state=kept[1],
        bad_step=bad_step,
    )
    return following, {"grad_norm": norm, "bad_step": bad_step}


def state_shardings(shapes: TrainState, mesh: Mesh, logical: Params) -> TrainState:
    """Where each array of a state lives.

    Args:
      shapes: the state, or its `jax.eval_shape`.
      mesh: see common/mesh.py.
      logical: a tree like `params` whose leaves are tuples of logical axis names.
        An optimizer's moments lie where their parameter lies; all else is replicated.
    """
    named, _ = jax.tree_util.tree_flatten_with_path(
        logical, is_leaf=lambda x: isinstance(x, tuple)
    )
    table = {jax.tree_util.keystr(path): axes for path, axes in named}

    def place(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            axes = table.get(jax.tree_util.keystr(path[start:]))
            if axes is not None and len(axes) == len(leaf.shape):
                spec = meshes.partition_spec(axes, leaf.shape, mesh)
                return NamedSharding(mesh, spec)
        return meshes.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, shapes)
