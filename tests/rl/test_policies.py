"""A stored policy acts as the agent that learned it does without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.rl import policies
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.policies import Policy
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.types import Observation, Shapes

SHAPES = Shapes((8, 16, 6), 3, 2)
AGENTS = {
    "ppo": lambda: make_ppo(PPOConfig(worlds=4, quiet=1, batch=8, hidden=8), SHAPES, 4),
    "drqv2": lambda: make_drqv2(DrQConfig(worlds=4, batch=8, hidden=8), SHAPES, 4),
}


@pytest.mark.parametrize("algo", AGENTS)
def test_what_is_stored_acts_as_the_agent_does(tmp_path, algo):
    agent, path = AGENTS[algo](), tmp_path / "policies" / "a.npz"
    state = agent.init(jax.random.key(0))
    # untrained actors are close to zero whatever they see
    state = jax.tree.map(
        lambda x: (
            x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
            if x.dtype == jnp.float32
            else x
        ),
        state,
    )
    params = jax.device_get(agent.policy(state))
    policies.save(path, Policy("reach", agent.activation, 16, params))
    found = policies.load(path)
    assert (found.task, found.image_size) == ("reach", 16)
    keys = jax.random.split(jax.random.key(1), 3)
    pixels = jax.random.randint(keys[0], (4, *SHAPES.image), 0, 256).astype(jnp.uint8)
    seen = Observation(pixels, jax.random.normal(keys[1], (4, 3)))
    carry = agent.begin(state, jnp.float32(0))
    _, expected, _ = agent.act(state, carry, seen, keys[2])
    acted = policies.act(found.params, seen, found.activation)
    np.testing.assert_allclose(acted, expected, atol=1e-6)
    assert np.std(acted, axis=0).min() > 1e-3


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for content in (None, b"", b"no policy"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match="soler1 rl"):
            policies.load(path)
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(UserError, match="soler1 rl"):
        policies.load(path)
    with pytest.raises(UserError, match="holds none"):
        policies.find((tmp_path / "empty",))
    assert policies.find((tmp_path,)) == [path]
