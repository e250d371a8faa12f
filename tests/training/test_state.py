"""The train state: one step, freezing at bad numbers, schedules, shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import make_mesh
from soler1_jax.training import optimizer, state

PARAMS = {"a": np.ones((4, 2), np.float32), "b": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def tx():
    config = optimizer.OptimizerConfig(warmup_steps=0)
    return optimizer.make_optimizer(config, optimizer.schedule(config, 10))


def test_a_gradient_that_is_not_finite_freezes_the_state(tx):
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    bad = {**gradient, "b": gradient["b"].at[1].set(jnp.nan)}
    apply = jax.jit(lambda s, g: state.apply_gradients(s, jnp.float32(1.0), g, tx))
    one, _ = apply(state.create(PARAMS, tx, 0), gradient)
    two, metrics = apply(one, bad)
    three, _ = apply(two, gradient)
    assert metrics["bad_step"] == 1 == three.bad_step and three.step == 1
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(three), strict=True))
    assert sum(not np.array_equal(a, b) for a, b in pairs) == 1, "only bad_step moved"
    assert not np.array_equal(one.params["a"], PARAMS["a"])


def test_an_infinite_loss_freezes_it_too(tx):
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    start = state.create(PARAMS, tx, 0)
    after, metrics = state.apply_gradients(start, jnp.float32(jnp.inf), gradient, tx)
    assert metrics["bad_step"] == 0 and after.step == 0


def test_each_step_has_its_own_key_and_a_seed_repeats_it(tx):
    one = state.create(PARAMS, tx, 3)
    later = one.replace(step=jnp.int32(7))
    keys = [state.step_key(s) for s in (one, later, state.create(PARAMS, tx, 3))]
    data = [np.asarray(jax.random.key_data(k)) for k in keys]
    assert np.array_equal(data[0], data[2]) and not np.array_equal(data[0], data[1])


def test_schedule_rises_then_falls_in_each_phase():
    config = optimizer.OptimizerConfig(learning_rate=1.0, warmup_steps=5)
    rate = optimizer.phased_schedule(config, [50, 100])
    values = np.array([float(rate(i)) for i in range(150)])
    for first, end in ((0, 50), (50, 150)):
        phase = values[first:end]
        assert phase.argmax() == 5 and phase[0] < 0.01 and phase[-1] < 0.05
        assert np.all(np.diff(phase[5:]) <= 0)


def test_clipping_bounds_a_step():
    config = optimizer.OptimizerConfig(warmup_steps=0, clip_norm=1.0, weight_decay=0.0)
    tx = optimizer.make_optimizer(config, optimizer.schedule(config, 10))
    huge = jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), PARAMS)
    one = state.create(PARAMS, tx, 0)
    after, metrics = state.apply_gradients(one, jnp.float32(1), huge, tx)
    moment = optax_moment(after)
    assert metrics["grad_norm"] > 1e6
    assert float(jnp.sqrt(sum((m**2).sum() for m in moment))) < 0.11


def optax_moment(after):
    """First moments (1 - b1 of the clipped gradient after one step)."""
    return jax.tree.leaves(after.opt_state[1][0].mu)


def test_only_matrices_decay():
    config = optimizer.OptimizerConfig(warmup_steps=0, weight_decay=0.5)
    tx = optimizer.make_optimizer(config, optimizer.schedule(config, 10))
    params = jax.tree.map(jnp.ones_like, PARAMS)
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    after, _ = state.apply_gradients(
        state.create(params, tx, 0), jnp.float32(1), nothing, tx
    )
    assert np.all(np.asarray(after.params["a"]) < 1)
    assert np.all(np.asarray(after.params["b"]) == 1)


def test_moments_lie_where_their_parameter_lies(tx):
    mesh = make_mesh()
    placed = state.state_shardings(
        jax.eval_shape(lambda: state.create(PARAMS, tx, 0)),
        mesh,
        {"a": ("mlp", "embed"), "b": (None,)},
    )
    spec = placed.params["a"].spec
    assert "tensor" in spec and "fsdp" in spec
    adam = placed.opt_state[1][0]
    assert adam.mu["a"].spec == spec == adam.nu["a"].spec


@pytest.mark.parametrize(
    "bad", [{"learning_rate": 0.0}, {"warmup_steps": -1}, {"schedule": "square"}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UserError):
        optimizer.schedule(optimizer.OptimizerConfig(**bad), 10)
