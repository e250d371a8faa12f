"""Flash attention for Hopper: its numbers by the interpreter, and that it is lowered.

What a GPU makes of it is measured by experiments/gpu_attention.py.
"""

import functools

import gpu_interpreter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from soler1_jax.kernels.flash_attention import api, gpu, reference
from soler1_jax.kernels.flash_attention.shapes import SHAPES
from soler1_jax.kernels.shared_prefix_attention.api import shared_prefix_attention


def _draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)


def _ids(lengths, total, batch):
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    row = np.pad(ids, (0, total - len(ids))).astype(np.int32)
    return jnp.asarray(np.broadcast_to(row, (batch, total)))


def _graded(call, dout):
    """Return a function of q, k, v to output, log-normaliser and gradients."""

    def run(q, k, v):
        (out, lse), pull = jax.vjp(call, q, k, v)
        # the log-normaliser has a gradient too, where it is finite
        dlse = jnp.where(jnp.isfinite(lse), 0.5, 0).astype(lse.dtype)
        return out, lse, *pull((dout.astype(out.dtype), dlse))

    return run


def _plain(options):
    def call(q, k, v):
        out, lse = reference.flash_attention(q, k, v, **options)
        seen = jnp.isfinite(lse)
        return jnp.where(seen[..., None], out, 0), jnp.where(seen, lse, -jnp.inf)

    return call


def _apart(got, wanted):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


CASES = {
    # batch, queries, keys, heads, key heads, head size
    "causal": ((1, 256, 256, 2, 1, 64), {"causal": True}),
    "capped, ragged": ((1, 200, 200, 2, 2, 80), {"causal": True, "logit_cap": 5.0}),
    "more keys than queries": ((1, 130, 250, 2, 1, 64), {"causal": True}),
    "full, products ahead": ((1, 128, 384, 1, 1, 128), {}),
    "negative scale": ((1, 64, 64, 1, 1, 16), {"softmax_scale": -0.3}),
}


def _check(shape, options):
    batch, queries, keys, heads, key_heads, size = shape
    rng = np.random.default_rng(0)
    q = _draw(rng, batch, queries, heads, size)
    k, v = (_draw(rng, batch, keys, key_heads, size) for _ in range(2))
    dout = _draw(rng, *q.shape)
    if (ids := options.get("q_segments")) is not None:
        dout = jnp.where((ids > 0)[..., None, None], dout, 0)
    ours = functools.partial(
        api.flash_attention, implementation="pallas_gpu", return_lse=True, **options
    )
    with gpu_interpreter.interpreted():
        got = jax.block_until_ready(_graded(ours, dout)(q, k, v))
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    wanted = _graded(_plain(options), dout)(*wide)
    seen = np.isfinite(np.asarray(wanted[1]))
    np.testing.assert_array_equal(np.isfinite(np.asarray(got[1])), seen)
    np.testing.assert_allclose(
        np.asarray(got[1])[seen], np.asarray(wanted[1])[seen], atol=1e-4
    )
    for a, b in zip((got[0], *got[2:]), (wanted[0], *wanted[2:]), strict=True):
        assert _apart(a, b) < 4e-3
        assert a.dtype == jnp.bfloat16


@gpu_interpreter.needed
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_reference(name):
    _check(*CASES[name])


@gpu_interpreter.needed
def test_segments_with_padding_are_those_of_the_reference():
    ids = _ids((100, 156, 90), 384, 2)
    _check(
        (2, 384, 384, 2, 1, 64),
        {"causal": True, "q_segments": ids, "kv_segments": ids},
    )


@gpu_interpreter.needed
def test_blocks_of_other_segments_are_not_fetched():
    # each frame is a block: NaN in the others would spread through any product
    ids = _ids((128, 128), 256, 1)
    rng = np.random.default_rng(0)
    q, k, v = (_draw(rng, 1, 256, 1, 16) for _ in range(3))
    spoilt = [x.at[:, 128:].set(jnp.nan) for x in (q, k, v)]
    with gpu_interpreter.interpreted():
        out = api.flash_attention(
            *spoilt, q_segments=ids, kv_segments=ids, implementation="pallas_gpu"
        )
    wanted, _ = reference.flash_attention(
        *(x[:, :128].astype(jnp.float32) for x in (q, k, v))
    )
    assert _apart(out[:, :128], wanted) < 4e-3
    assert np.isnan(np.asarray(out[:, 128:], np.float32)).all()


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_lowered(name):
    shape = SHAPES[name]
    q = jax.ShapeDtypeStruct(
        (shape.batch, shape.length, shape.heads, shape.size), jnp.bfloat16
    )
    k = jax.ShapeDtypeStruct((*q.shape[:2], shape.key_heads, shape.size), q.dtype)
    ids = shape.segment_ids()
    ids = None if ids is None else jnp.asarray(ids)

    def step(q, k, v):
        call = functools.partial(
            api.flash_attention,
            causal=shape.causal,
            q_segments=ids,
            kv_segments=ids,
            logit_cap=shape.logit_cap,
            implementation="pallas_gpu",
        )
        out, pull = jax.vjp(call, q, k, v)
        return pull(out)

    text = jax.jit(step).trace(q, k, k).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == (3 if shape.size <= 128 else 1)


def test_shared_prefixes_are_lowered():
    b, g, p, s, d = 2, 4, 256, 64, 128
    shapes = [(b, p, h, d) for h in (4, 2, 2)] + [(b, g, s, h, d) for h in (4, 2, 2)]
    arrays = [jax.ShapeDtypeStruct(x, jnp.bfloat16) for x in shapes]

    def step(*arrays):
        call = functools.partial(shared_prefix_attention, implementation="pallas_gpu")
        out, pull = jax.vjp(call, *arrays)
        return pull(out)

    text = jax.jit(step).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    # forward, gradients of queries and of keys, each of prompts, of answers on prompts,
    # and of answers on themselves
    assert text.count("custom_call @mosaic_gpu") == 9


@pytest.mark.parametrize(("dtype", "size"), [("float32", 64), ("bfloat16", 272)])
def test_what_it_cannot_take_is_refused(dtype, size):
    x = jnp.zeros((1, 64, 1, size), dtype)
    with pytest.raises(ValueError, match=f"heads up to {gpu.MAX_SIZE}; got {dtype}"):
        api.flash_attention(x, x, x, implementation="pallas_gpu")
