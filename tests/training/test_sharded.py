"""A step over four devices gives what one device gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib.util, sys
import jax, jax.numpy as jnp, numpy as np
from soler1_jax.common.mesh import make_mesh
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.training import feed, optimizer, sft, state
from jax.sharding import Mesh

spec = importlib.util.spec_from_file_location("made_up", sys.argv[1])
made_up = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made_up)
batch = made_up.make_batch()
functions = Functional(preset("micro", 40))
config = optimizer.OptimizerConfig(warmup_steps=0)
tx = optimizer.make_optimizer(config, optimizer.schedule(config, 10))

def first():
    return state.create(functions.init(0), tx, 0)

def loss(model, batch, key):
    return sft.query_loss(model, batch, key, sft.SftConfig(), 10)

def one_step(mesh):
    placed = state.state_shardings(
        jax.eval_shape(first), mesh, functions.logical_axes()
    )
    current = jax.jit(first, out_shardings=placed)()
    step = sft.make_step(loss, functions.module, tx, placed)
    for _ in range(2):
        current, metrics = step(current, feed.place(batch, mesh))
    assert step._cache_size() == 1, "recompiled"
    return current, metrics

assert jax.device_count() == 4
alone = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), make_mesh().axis_names)
single, expected = one_step(alone)
many, found = one_step(make_mesh([int(x) for x in sys.argv[2].split(",")]))
kernels = [x for x in jax.tree.leaves(many.params) if x.ndim > 1]
split = sum(not x.sharding.is_fully_replicated for x in kernels)
assert (split > 0) == (sys.argv[2] != "4,1,1"), split
for name in expected:
    a, b = float(expected[name]), float(found[name])
    assert abs(a - b) <= 2e-4 * max(1, abs(a)), (name, a, b)
for a, b in zip(jax.tree.leaves(single.params), jax.tree.leaves(many.params)):
    # Adam divides by the gradient's size, so tiny gradients make rounding visible
    far = np.abs(np.asarray(a) - np.asarray(b)) > 1e-4
    assert far.mean() < 0.02, far.mean()
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["4,1,1", "2,2,1", "1,2,2"])
def test_four_devices_equal_one(shape):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    made_up = Path(__file__).with_name("conftest.py")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(made_up), shape],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
