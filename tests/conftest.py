"""Every test runs on the CPU, with compiled programs kept between runs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from soler1_jax.common import compile_cache

compile_cache.enable()

# Compilation makes first examples slow; fixed seeds keep CI repeatable.
hypothesis.settings.register_profile("jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jax")


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)
