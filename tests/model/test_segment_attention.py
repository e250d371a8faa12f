"""Attention by segments: the same by every way, and Mosaic kernels only for TPUs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_aot
from jax.sharding import PartitionSpec

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets, segment_attention
from soler1_jax.model.functional import Functional
from soler1_jax.model.prefix import Prefix
from soler1_jax.model.segment_attention import attend_segments

VOCAB = 40


def _draw(length, heads=4, groups=2, size=8):
    keys = jax.random.split(jax.random.key(length), 4)
    shapes = [(2, length, n, size) for n in (heads, groups, groups)]
    arrays = [
        jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)
    ]
    # Padding left and right, and two packed sequences in the second row.
    segments = jnp.ones((2, length), jnp.int32).at[0, : length // 5].set(0)
    segments = segments.at[1, length // 2 :].set(2).at[1, -length // 7 :].set(0)
    return *arrays, segments


@pytest.mark.parametrize("implementation", [None, "xla", "interpret"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [40, 200])
def test_every_way_gives_what_jax_gives(length, causal, implementation):
    if implementation == "interpret" and length > 40:
        pytest.skip("minutes in the interpreter; tests/kernels has long sequences")
    query, key, value, segments = _draw(length)
    seen = segments > 0
    mask = (segments[:, :, None] == segments[:, None]) & seen[:, None]

    def ours(*x):
        options = {"causal": causal, "divisor": 5.0, "implementation": implementation}
        return attend_segments(*x, segments, **options)

    def theirs(*x):
        return jax.nn.dot_product_attention(
            *x, mask=mask[:, None], is_causal=causal, scale=5.0**-0.5
        )

    def loss(way):
        def of(*x):
            return jnp.sum(jnp.sin(jnp.where(seen[..., None, None], way(*x), 0)))

        return jax.jit(jax.value_and_grad(of, (0, 1, 2)))

    found, expected = (loss(way)(query, key, value) for way in (ours, theirs))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def _causal(attention):
    config = presets.micro(VOCAB)
    text = dataclasses.replace(config.text, prefix_attention="causal")
    return Functional(dataclasses.replace(config, text=text, attention=attention))


def _prefix(model, places=8):
    size = model.config.text.hidden_size
    embeds = jax.random.normal(jax.random.key(2), (2, places, size))
    mask = jnp.ones((2, places), bool).at[1, : places // 3].set(False)
    steps = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    return Prefix(
        embeds=embeds,
        positions=jnp.broadcast_to(steps[:, None], (2, 3, places)),
        deepstack=jnp.zeros((2, 1, 0, size)),
        mask=mask,
        last=jnp.full(2, places - 1),
        next_position=steps[:, -1] + 1,
    )


def _training_step(model):
    """The gradient of a sum of what the model says of frames and of a completion."""
    frames = jnp.zeros((2, 16, 16, 3), jnp.uint8).at[:, 4:8].set(200)
    ids = jnp.tile(jnp.arange(4, 10), (2, 1))

    def loss(params, prefix):
        said = model.logits(params, prefix, ids, ids < 9).logits[:, :5]
        seen = model.encode(params, frames).patches
        return jnp.sum(jnp.sin(said)) + jnp.sum(jnp.sin(seen))

    return jax.jit(jax.value_and_grad(loss))


def test_a_model_learns_the_same_by_kernels_with_padding_on_the_left():
    plain, kernels = _causal(None), _causal("xla")
    params, prefix = plain.init(0), _prefix(plain)
    expected = _training_step(plain)(params, prefix)
    found = _training_step(kernels)(params, prefix)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("platform", "attention", "calls"),
    [("tpu", None, True), ("cpu", None, False), ("tpu", "xla", False)],
)
def test_a_training_step_has_mosaic_kernels_for_tpus_only(platform, attention, calls):
    model = _causal(attention)
    prefix = _prefix(model, segment_attention.SHORT)
    step = _training_step(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), prefix)
    exported = jax.export.export(step, platforms=[platform])(model.shapes(), shapes)
    assert ("tpu_custom_call" in exported.mlir_module()) == calls


@pytest.mark.aot
def test_rows_and_heads_spread_over_a_mesh_without_exchange():
    mesh = tpu_aot.mesh("v5e", (2, 1, 2), ("data", "fsdp", "tensor"))
    heads, rows = PartitionSpec("data", None, "tensor"), PartitionSpec("data")

    def spread(query, key, value, segments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return attend_segments(query, key, value, segments, causal=True)

    program = tpu_aot.compile_for(
        "v5e", spread, *_draw(256), mesh=mesh, specs=(heads, heads, heads, rows)
    )
    text = program.executable.as_text()
    assert "flash_attention_forward" in text
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))


def test_an_unknown_implementation_is_one_line():
    with pytest.raises(UserError, match="got 'metal'; leave it out"):
        dataclasses.replace(presets.micro(VOCAB), attention="metal")
