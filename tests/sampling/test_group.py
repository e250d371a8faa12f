"""Several completions of a prefix, which is run and kept once, against copies of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.model import presets
from soler1_jax.model.attention import LayerCache
from soler1_jax.model.cache import Cache
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.split_cache import Rows, SplitCache, splits
from soler1_jax.sampling.methods import Method
from soler1_jax.sampling.unconstrained import write

VOCAB, LENGTH, GROUP = 40, 7, 3
PROMPT = jnp.array([[21, 22, 23], [24, 25, 0], [26, 0, 0]])
# Places that are not there lie among those that are, and at the end.
SHOWN = jnp.array([[True, True, True], [True, False, True], [False, False, True]])
MICRO = presets.micro(VOCAB)


def _wide(**changes: Any) -> ModelConfig:
    """A model with heads as wide as a TPU's rows, layers scanned or not."""
    text = dataclasses.replace(
        MICRO.text, head_dim=128, mrope_section=(24, 20, 20), **changes
    )
    return dataclasses.replace(MICRO, text=text)


def _prefix(vlm: Any) -> Any:
    picture = jax.random.randint(jax.random.key(1), (3, 16, 16, 3), 0, 256)
    features = vlm.encode(picture.astype(jnp.uint8))
    grounded = vlm.ground(features, PROMPT, PROMPT != 0)
    return vlm.prefix([grounded] * 3, PROMPT, PROMPT != 0, SHOWN)


def _continue(config: ModelConfig, group: int, copies: int) -> tuple[Cache, Any]:
    """The cache and the logits of given tokens, one step after another."""
    model = Functional(config)

    @jax.jit
    def run(params: Any) -> tuple[Cache, jax.Array]:
        vlm = model.module(params)
        prefix = jax.tree.map(lambda x: x.repeat(copies, axis=0), _prefix(vlm))
        cache, step, _ = vlm.prefill(prefix, LENGTH, group)
        logits = [step.logits]
        tokens = jax.random.randint(jax.random.key(2), (LENGTH, 3 * GROUP), 1, VOCAB)
        for token in tokens:
            cache, step = vlm.decode_step(cache, token)
            logits.append(step.logits)
        return cache, jnp.stack(logits)

    return run(model.init(0))


@pytest.mark.parametrize(("scan", "seen"), [(False, "bidirectional"), (True, "causal")])
@pytest.mark.parametrize("attention", [None, "xla", "interpret"])
def test_a_shared_prefix_predicts_what_copies_predict(
    attention: str | None, scan: bool, seen: str
) -> None:
    config = _wide(scan_layers=scan, prefix_attention=seen)
    cache, shared = _continue(
        dataclasses.replace(config, attention=attention), GROUP, 1
    )
    _, copied = _continue(config, 1, GROUP)
    np.testing.assert_allclose(shared, copied, atol=2e-5)
    layers = cache.layers
    assert all(isinstance(layer, SplitCache) for layer in layers)
    kept = Rows if attention == "interpret" else LayerCache
    assert type(layers[0].prompt) is type(layers[0].own) is kept
    assert len(layers[0].prompt.keys) == 3 and len(layers[0].own.keys) == 3 * GROUP


def test_single_completions_on_a_tpu_split_the_cache_too() -> None:
    config = dataclasses.replace(_wide(), attention="interpret")
    tokens = functools.partial(_continue, group=1, copies=GROUP)
    cache, split = tokens(config)
    _, whole = tokens(_wide())
    assert isinstance(cache.layers[0], SplitCache)
    np.testing.assert_allclose(split, whole, atol=2e-5)


def test_what_the_kernel_does_not_suit_is_copied() -> None:
    sliding = _wide(sliding_layers=(0,), sliding_window=4)
    assert not splits(sliding, GROUP)
    assert not splits(dataclasses.replace(MICRO, attention="pallas_tpu"), GROUP)
    assert not splits(_wide(), 1) and splits(_wide(), GROUP)


def test_the_same_tokens_are_drawn_as_from_copies() -> None:
    model = Functional(MICRO)

    @functools.partial(jax.jit, static_argnames=("group", "copies", "length"))
    def draw(params: Any, group: int, copies: int, length: int = LENGTH) -> Any:
        vlm = model.module(params)
        prefix = jax.tree.map(lambda x: x.repeat(copies, axis=0), _prefix(vlm))
        return write(
            vlm,
            prefix,
            jax.random.key(3),
            length=length,
            method=Method(temperature=1.0),
            group=group,
        )

    params = model.init(0)
    shared, copied = draw(params, GROUP, 1), draw(params, 1, GROUP)
    np.testing.assert_array_equal(shared.tokens, copied.tokens)
    np.testing.assert_allclose(shared.logprobs, copied.logprobs, atol=1e-5)
    one = draw(params, GROUP, 1, length=1)
    np.testing.assert_array_equal(one.tokens, shared.tokens[:, :1])
