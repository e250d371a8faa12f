"""The kernel for TPUs that are not here: exported, and compiled by libtpu."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
import tpu_aot
from jax.sharding import PartitionSpec
from soler1_jax.kernels.decode_attention import tpu
from soler1_jax.kernels.decode_attention.api import decode_attention
from soler1_jax.kernels.decode_attention.shapes import SHAPES, DecodeShape

VMEM = 16 << 20
"""What the compilers of all three generations grant a kernel that asks for no more."""


def program(shape: DecodeShape, return_lse: bool = False):
    """Return the call of an entry, with scales where its caches are narrow."""
    scale = None
    if jnp.dtype(shape.cache_dtype).itemsize == 1:
        scale = jnp.full(shape.kv_heads, 0.1)

    def call(q, k_cache, v_cache, lengths):
        return decode_attention(
            q,
            k_cache,
            v_cache,
            lengths,
            k_scale=scale,
            v_scale=scale,
            logit_cap=shape.logit_cap,
            return_lse=return_lse,
            implementation="pallas_tpu",
        )

    return call


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
def test_vector_memory_is_enough_on_every_chip(shape):
    q, cache, *_ = shape.arguments()
    keys = tpu.block_keys(
        shape.heads, shape.kv_heads, shape.head_dim, cache.dtype.itemsize
    )
    assert tpu.vmem_bytes(q, cache, min(keys, shape.capacity)) <= VMEM


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
def test_exports_to_tpu(shape):
    exported = jax.export.export(jax.jit(program(shape)), platforms=["tpu"])
    assert "tpu_custom_call" in exported(*shape.arguments()).mlir_module()


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
def test_compiles_in_its_vector_memory_without_a_copy_of_the_cache(shape, generation):
    # the kernel asks for `vmem_bytes`: more would not compile
    compiled = tpu_aot.compile_for(
        generation, program(shape, return_lse=True), *shape.arguments()
    )
    text = compiled.executable.as_text()
    assert "tpu_custom_call" in text
    # lse leaves the kernel in 128 equal lanes; with a narrow cache so do the scales
    # enter it, and the result leaves it in float32
    narrow = jnp.dtype(shape.cache_dtype).itemsize == 1
    spare = (1 << 20) + (3 if narrow else 1) * shape.batch * shape.heads * 128 * 4
    if shape.head_dim < 128:
        # XLA stores a cache of narrow heads in another order and copies it, padded
        spare += shape.cache_bytes * 128 // shape.head_dim
    assert compiled.memory.temp_size_in_bytes < spare
    assert compiled.memory.argument_size_in_bytes < 1.01 * shape.cache_bytes + (1 << 20)
    if shape.head_dim % 128 == 0:
        size = ",".join(map(str, shape.arguments()[1].shape))
        assert not re.search(rf"\[{size}\]\S* (copy|transpose|convert)\(", text)


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_spreads_over_a_mesh_without_talking(generation):
    shape = DecodeShape("qwen3-vl-8b", 64, 4096, 32, 8, 128)
    mesh = tpu_aot.mesh(generation, (2, 2), ("data", "tensor"))
    cache = PartitionSpec("data", None, "tensor")
    specs = (PartitionSpec("data", "tensor"), cache, cache, PartitionSpec("data"))
    spread = jax.shard_map(
        program(shape), mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False
    )
    compiled = tpu_aot.compile_for(
        generation, spread, *shape.arguments(), mesh=mesh, specs=specs
    )
    text = compiled.executable.as_text()
    assert "tpu_custom_call" in text
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", text)
    assert compiled.memory.temp_size_in_bytes < 1 << 20
    share = shape.cache_bytes / math.prod(mesh.devices.shape)
    assert compiled.memory.argument_size_in_bytes < 1.01 * share + (1 << 20)
