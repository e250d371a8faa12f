"""A micro model and random inputs."""

import jax
import jax.numpy as jnp
import pytest

from soler1_jax.model import presets
from soler1_jax.model.functional import Functional, Params

VOCAB = 40


@pytest.fixture(scope="session")
def model() -> Functional:
    return Functional(presets.micro(VOCAB))


@pytest.fixture(scope="session")
def params(model: Functional) -> Params:
    return model.init(0)


@pytest.fixture(scope="session")
def frames() -> jax.Array:
    """uint8 [6, 16, 16, 3]: first, previous and current frame of two episodes."""
    picture = jax.random.randint(jax.random.key(1), (6, 16, 16, 3), 0, 256)
    return picture.astype(jnp.uint8)
