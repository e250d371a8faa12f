"""Argument checks of the kernels, and the ahead-of-time compiler behind their tests."""

import jax
import jax.numpy as jnp
import pytest
import tpu_aot
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from soler1_jax.kernels import dispatch


def test_none_takes_what_suits_the_platform(monkeypatch):
    both = ("xla", "pallas_tpu")
    assert dispatch.choose_implementation("f", None, both) == "xla"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert dispatch.choose_implementation("f", None, both) == "pallas_tpu"
    assert dispatch.choose_implementation("f", None, ("xla",)) == "xla"


def test_a_wrong_implementation_is_one_line_with_the_fix():
    with pytest.raises(ValueError, match=r"f must be .* got 'metal'; leave it out"):
        dispatch.choose_implementation("f", "metal", ("xla",))
    with pytest.raises(ValueError, match="no implementation 'cudnn'; choose one of"):
        dispatch.choose_implementation("f", "cudnn", ("xla",))
    with pytest.raises(ValueError, match="'pallas_gpu'; it is not written; use 'xla'"):
        dispatch.choose_implementation(
            "f", "pallas_gpu", ("xla",), {"pallas_gpu": "it is not written; use 'xla'"}
        )


def test_shapes_and_dtypes_are_checked():
    sizes: dict[str, int] = {}
    dispatch.require_shape("q", jnp.zeros((2, 3)), "B T", sizes)
    assert sizes == {"B": 2, "T": 3}
    with pytest.raises(ValueError, match=r"T of k \[B, T\] must be 3 .* \[2, 4\]"):
        dispatch.require_shape("k", jnp.zeros((2, 4)), "B T", sizes)
    with pytest.raises(ValueError, match=r"2 dimensions \[B, T\]; got shape \[2\]"):
        dispatch.require_shape("k", jnp.zeros(2), "B T", sizes)
    dispatch.require_dtype("q", jnp.zeros(1, jnp.bfloat16), ("bfloat16", "float32"))
    with pytest.raises(ValueError, match="bfloat16 or float32; got int32"):
        dispatch.require_dtype("q", jnp.zeros(1, int), ("float32", "bfloat16"))
    dispatch.require_groups(8, 2)
    with pytest.raises(ValueError, match="multiple .* got 8 and 3"):
        dispatch.require_groups(8, 3)


def _double(x, implementation):
    def kernel(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        in_specs=[pl.BlockSpec(memory_space=pltpu.VMEM)],
        interpret=dispatch.interpret_params(implementation),
    )(x)


def test_interpret_runs_the_tpu_program_here():
    x = jnp.arange(1024, dtype=jnp.float32).reshape(8, 128)
    assert jnp.array_equal(_double(x, "interpret"), 2 * x)


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_a_kernel_compiles_for_a_tpu_that_is_not_here(generation):
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    program = tpu_aot.compile_for(generation, lambda x: _double(x, "pallas_tpu"), x)
    assert "tpu_custom_call" in program.executable.as_text()
    assert program.memory.output_size_in_bytes == 4 * 1024 * 1024
    mesh = tpu_aot.mesh(generation, (4,), ("data",))

    def spread(x):
        return jax.shard_map(
            lambda x: _double(x, "pallas_tpu") + jax.lax.psum(x, "data"),
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )(x)

    specs = [PartitionSpec("data")]
    program = tpu_aot.compile_for(generation, spread, x, mesh=mesh, specs=specs)
    assert "all-reduce" in program.executable.as_text()
    assert program.memory.output_size_in_bytes == 1024 * 1024
