"""What attention gives is named, so that `jax.checkpoint` need not attend again."""

import jax
import jax.numpy as jnp
import pytest
from soler1_jax.kernels.flash_attention.api import flash_attention
from soler1_jax.kernels.flash_attention.program import RESULTS
from soler1_jax.kernels.shared_prefix_attention.api import shared_prefix_attention

PREFIX = jax.ShapeDtypeStruct((1, 16, 2, 8), jnp.float32)
SUFFIX = jax.ShapeDtypeStruct((1, 3, 4, 2, 8), jnp.float32)


def products(attend, arguments):
    """How many products a program with gradients has."""

    def loss(*arguments):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(attend(*arguments)))

    gradients = jax.grad(loss, argnums=tuple(range(len(arguments))))
    return jax.jit(gradients).lower(*arguments).as_text().count("dot_general")


@pytest.mark.parametrize(
    ("attend", "arguments"),
    [
        (flash_attention, [PREFIX] * 3),
        (shared_prefix_attention, [PREFIX] * 3 + [SUFFIX] * 3),
    ],
)
def test_kept_by_name_nothing_is_attended_twice(attend, arguments):
    plain = products(attend, arguments)
    by_name = jax.checkpoint_policies.save_only_these_names(RESULTS)
    assert products(jax.checkpoint(attend, policy=by_name), arguments) == plain
    assert products(jax.checkpoint(attend), arguments) > plain
