"""Flash attention compiles for TPUs, fits, and keeps its memory linear."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tpu_aot
from jax.sharding import PartitionSpec
from soler1_jax.kernels.flash_attention import api, tpu
from soler1_jax.kernels.flash_attention.shapes import SHAPES, Shape

KERNELS = (
    "flash_attention_forward",
    "flash_attention_query_gradient",
    "flash_attention_key_gradients",
)


def _arguments(shape, dtype):
    q = jax.ShapeDtypeStruct(
        (shape.batch, shape.length, shape.heads, shape.size), dtype
    )
    k = jax.ShapeDtypeStruct((*q.shape[:2], shape.key_heads, shape.size), dtype)
    return q, k, k, jax.ShapeDtypeStruct(q.shape[:2], jnp.int32)


def _training_step(shape):
    """Return a function of q, k, v and segments to output and gradients."""

    def step(q, k, v, segments):
        def loss(q, k, v):
            out = api.flash_attention(
                q,
                k,
                v,
                causal=shape.causal,
                q_segments=segments if shape.segments else None,
                kv_segments=segments if shape.segments else None,
                logit_cap=shape.logit_cap,
                implementation="pallas_tpu",
            )
            return jnp.sum(out.astype(jnp.float32) ** 2)

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)

    return step


def _tiled(x):
    """Return the bytes of [B, T, heads, D] with T and D in whole tiles of 128."""
    batch, length, heads, size = x.shape
    tiles = -(-length // 128) * -(-size // 128)
    return batch * heads * tiles * 128 * 128 * x.dtype.itemsize


@pytest.mark.aot
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_every_shape_compiles_forward_and_backward(generation, name, dtype):
    """The compiler refuses kernels beyond `tpu.VMEM_LIMIT`; see the test below."""
    shape = SHAPES[name]
    q, k, v, segments = _arguments(shape, dtype)
    program = tpu_aot.compile_for(generation, _training_step(shape), q, k, v, segments)
    text = program.executable.as_text()
    assert all(kernel in text for kernel in KERNELS)
    # in the kernels' layout: arguments, output, its gradient, and the results
    most = 4 * _tiled(q) + 4 * _tiled(k) + 2 * 4 * q.size // shape.size + 2**20
    assert program.memory.temp_size_in_bytes <= most
    assert program.cost["flops"] >= 2 * 9 * q.size * shape.pairs() / shape.length


@pytest.mark.aot
def test_the_compiler_refuses_what_does_not_fit_in_vmem(monkeypatch):
    monkeypatch.setattr(tpu, "VMEM_LIMIT", 2**20)
    shape = Shape(1, 1024, 1, 1, 128)
    with pytest.raises(jax.errors.JaxRuntimeError, match="(?i)vmem"):
        tpu_aot.compile_for(
            "v5e", _training_step(shape), *_arguments(shape, jnp.bfloat16)
        )


@pytest.mark.aot
@pytest.mark.parametrize("frames", [False, True])
def test_memory_is_linear_up_to_32k_tokens(frames):
    def temporary(length):
        segments = (256,) * (length // 256) if frames else ()
        shape = Shape(1, length, 32, 8, 128, causal=not frames, segments=segments)
        arguments = _arguments(shape, jnp.bfloat16)
        return tpu_aot.compile_for(
            "v5p", _training_step(shape), *arguments
        ).memory.temp_size_in_bytes

    short, long = temporary(8192), temporary(32768)
    assert long <= 4.8 * short
    # one matrix of bfloat16 logits would be 64 GiB
    assert long < 2**30


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_rows_and_heads_spread_over_a_mesh(generation):
    shape = Shape(2, 1024, 8, 2, 128, causal=True, segments=(600, 300))
    mesh = tpu_aot.mesh(generation, (2, 2), ("data", "tensor"))
    heads, tokens = PartitionSpec("data", None, "tensor"), PartitionSpec("data")
    specs = (heads, heads, heads, tokens)
    gradients = functools.partial(_gradients_only, _training_step(shape))
    spread = jax.shard_map(
        gradients, mesh=mesh, in_specs=specs, out_specs=(heads,) * 3, check_vma=False
    )
    program = tpu_aot.compile_for(
        generation,
        spread,
        *_arguments(shape, jnp.bfloat16),
        mesh=mesh,
        specs=specs,
    )
    text = program.executable.as_text()
    assert all(kernel in text for kernel in KERNELS)
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))


def _gradients_only(step, *arguments):
    return step(*arguments)[1]


@pytest.mark.parametrize("name", ["qwen3-vl-8b vit", "qwen3-vl-4b and 8b packed"])
def test_exports_to_tpu_from_any_machine(name):
    shape = SHAPES[name]
    step = jax.jit(_training_step(shape))
    exported = jax.export.export(step, platforms=["tpu"])(
        *_arguments(shape, jnp.bfloat16)
    )
    assert exported.mlir_module().count("tpu_custom_call") >= len(KERNELS)
    assert exported.platforms == ("tpu",)


def test_float32_products_are_exact_on_tpu():
    """The interpreter multiplies exactly in any case, so this looks at the program."""
    shape = Shape(1, 128, 1, 1, 8)
    arguments = _arguments(shape, jnp.float32)
    program = str(jax.make_jaxpr(_training_step(shape))(*arguments))
    # two forward, three for the queries' gradient, four for keys and values, row sums
    assert program.count("dot_general[") == 10
    assert program.count("(Precision.HIGHEST, Precision.HIGHEST)") == 10
