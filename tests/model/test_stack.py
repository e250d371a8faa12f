"""What a stack of layers keeps for its backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from soler1_jax.model.config import TextConfig
from soler1_jax.model.decoder import Decoder
from soler1_jax.model.stack import LayerStack

TOKENS = 512


def gradients(scan, remat):
    config = TextConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=96,
        depth=3,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        rope_theta=1e4,
        mrope_section=None,
        scan_layers=scan,
        remat=remat,
    )
    graph, weights = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    places = jnp.broadcast_to(jnp.arange(TOKENS), (1, 3, TOKENS))

    def loss(weights, x):
        segments = jnp.ones((1, TOKENS), jnp.int32)
        y, _ = nnx.merge(graph, weights)(x, places, None, segments=segments)
        return jnp.sum(y**3)

    x = jax.random.normal(jax.random.key(0), (1, TOKENS, 32))
    return jax.jit(jax.grad(loss)).lower(weights, x), (weights, x)


def products(lowered):
    return lowered.as_text().count("stablehlo.dot_general")


def temporary(lowered):
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("scan", [False, True])
def test_no_product_is_computed_twice_but_norms_and_activations_are(scan, monkeypatch):
    kept, _ = gradients(scan, remat=False)
    again, _ = gradients(scan, remat=True)
    everything = jax.checkpoint_policies.everything_saveable
    monkeypatch.setattr(LayerStack, "_policy", lambda self: everything)
    all_kept, _ = gradients(scan, remat=False)
    assert products(kept) == products(all_kept) < products(again)
    if scan:
        # unrolled on a CPU, XLA joins what is computed again with what was
        assert temporary(again) < temporary(kept) < 0.9 * temporary(all_kept)


@pytest.mark.parametrize("scan", [False, True])
def test_gradients_are_the_same(scan):
    (kept, arguments), (again, _) = (gradients(scan, remat) for remat in (False, True))
    pairs = zip(
        *(jax.tree.leaves(f.compile()(*arguments)) for f in (kept, again)), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())
