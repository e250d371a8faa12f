"""What sharing a prompt saves on a TPU, by the compiler's own account."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tpu_aot
from soler1_jax.kernels.flash_attention import api as flash
from soler1_jax.kernels.shared_prefix_attention import api, reference

MEMBERS, PREFIX, SUFFIX, HEADS, KEY_HEADS, SIZE = 8, 1024, 128, 32, 8, 128


def _arguments():
    counts = (HEADS, KEY_HEADS, KEY_HEADS)
    shapes = [(1, PREFIX, n, SIZE) for n in counts]
    shapes += [(1, MEMBERS, SUFFIX, n, SIZE) for n in counts]
    return [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]


def _step(attend):
    """Return a function of the six arrays to loss and gradients."""

    def loss(*arguments):
        outputs = jax.tree.leaves(attend(*arguments))
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in outputs)

    return jax.value_and_grad(loss, argnums=tuple(range(6)))


def _shared(*arguments):
    return api.shared_prefix_attention(*arguments, implementation="pallas_tpu")


def _copied(attend, *arguments):
    pairs = zip(arguments[:3], arguments[3:], strict=True)
    return attend(*(reference.copies(*pair) for pair in pairs))


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_needs_a_fraction_of_what_copies_need(generation):
    shared = tpu_aot.compile_for(generation, _step(_shared), *_arguments())
    blocks = functools.partial(
        flash.flash_attention, causal=True, implementation="pallas_tpu"
    )
    plain = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    copied = {
        name: tpu_aot.compile_for(
            generation, _step(functools.partial(_copied, attend)), *_arguments()
        )
        for name, attend in (("blocks", blocks), ("plain", plain))
    }
    # allowed pairs are 0.309 of those of causal copies, 0.154 of all pairs of copies
    flops = shared.cost["flops"]
    assert flops / copied["blocks"].cost["flops"] == pytest.approx(0.309, abs=0.01)
    assert flops <= copied["plain"].cost["flops"] / 4
    for program in copied.values():
        temporary = program.memory.temp_size_in_bytes
        assert shared.memory.temp_size_in_bytes <= temporary / 4
