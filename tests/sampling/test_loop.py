"""Generation with a real micro model, and the ways to draw a token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional, Params
from soler1_jax.sampling.grammar import progress_grammar, read_progress
from soler1_jax.sampling.loop import generate
from soler1_jax.sampling.methods import FORBIDDEN, GREEDY, Method, choose, restrict
from soler1_jax.tokenizers import sentencepiece as sp

VOCAB = 40
GRAMMAR = progress_grammar(VOCAB, 6)
MODEL = Functional(presets.micro(VOCAB))
PROMPT = jnp.array([[21, 22, 23], [24, 25, 0], [26, 0, 0], [27, 28, 0]])


def _prefix(vlm: Any) -> Any:
    picture = jax.random.randint(jax.random.key(1), (4, 16, 16, 3), 0, 256)
    features = vlm.encode(picture.astype(jnp.uint8))
    seen = vlm.ground(features, PROMPT, PROMPT != 0)
    return vlm.prefix([seen] * 3, PROMPT, PROMPT != 0)


@functools.partial(jax.jit, static_argnames="method")
def _generate(params: Params, key: jax.Array, method: Method) -> Any:
    vlm = MODEL.module(params)
    return generate(vlm, _prefix(vlm), key, grammar=GRAMMAR, method=method)


@pytest.fixture(scope="module")
def params() -> Params:
    params = MODEL.init(0)
    # Sharper than at birth, so that the order of tokens is not a matter of rounding.
    params["lm_head"]["kernel"] = params["lm_head"]["kernel"] * 3
    return params


@jax.jit
def _forced(params: Params, tokens: jax.Array) -> tuple[jax.Array, Any]:
    vlm = MODEL.module(params)
    outputs = vlm.logits(_prefix(vlm), tokens, tokens != 0)
    return GRAMMAR.mask(outputs.logits, GRAMMAR.states(tokens)), outputs


@pytest.mark.parametrize("method", [GREEDY, Method(temperature=1.0)])
def test_logprobs_are_those_of_teacher_forcing(params: Params, method: Method) -> None:
    said = _generate(params, jax.random.key(0), method)
    masked, outputs = _forced(params, said.tokens)
    logs = jax.nn.log_softmax(masked)
    chosen = jnp.take_along_axis(logs, said.tokens[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(said.logprobs, chosen, atol=1e-4)
    opening = np.argmax(np.asarray(said.tokens) == sp.ANSWER, axis=1) + 1
    values = np.asarray(outputs.value_logits)[np.arange(4), opening]
    np.testing.assert_allclose(said.value_logits, values, atol=1e-4)
    np.testing.assert_allclose(said.state, outputs.state, atol=1e-4)
    if method == GREEDY:
        np.testing.assert_array_equal(said.tokens, jnp.argmax(masked, axis=-1))


def test_completions_end_and_parse(params: Params) -> None:
    said = _generate(params, jax.random.key(3), Method(temperature=2.0))
    progress, parsed = read_progress(said.tokens)
    assert bool(parsed.all())
    assert bool(said.parsed.all())
    np.testing.assert_array_equal(progress, said.progress)
    for row in np.asarray(said.tokens):
        end = row.tolist().index(sp.EOS)
        assert row[end - 1] == sp.END_ANSWER
        assert np.all(row[end + 1 :] == 0)


def test_keys_decide_samples_and_greedy_ignores_them(params: Params) -> None:
    hot = Method(temperature=1.0)
    a, b, c = (_generate(params, jax.random.key(k), hot).tokens for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
    greedy = [_generate(params, jax.random.key(k), GREEDY).tokens for k in (1, 2)]
    np.testing.assert_array_equal(*greedy)


def test_stops_as_soon_as_all_have_answered(params: Params) -> None:
    """A model in love with `</think>` is asked for few tokens, not for the budget."""
    steps = 0

    class Counting:
        def __init__(self, vlm: Any) -> None:
            self.prefill = vlm.prefill
            self.vlm = vlm

        def decode_step(self, cache: Any, token: jax.Array) -> tuple[Any, Any]:
            def count() -> None:
                nonlocal steps
                steps += 1

            jax.debug.callback(count)
            cache, step = self.vlm.decode_step(cache, token)
            return cache, step._replace(logits=step.logits.at[:, sp.END_THINK].add(99))

    @jax.jit
    def run(params: Params) -> Any:
        vlm = MODEL.module(params)
        model, key = Counting(vlm), jax.random.key(0)
        return generate(model, _prefix(vlm), key, grammar=GRAMMAR)

    said = run(params)
    jax.effects_barrier()
    # <think> comes from the prefill; then </think> <answer> sign and three digits.
    assert steps == 6
    assert bool(said.parsed.all())


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]))
    kept = np.asarray(restrict(logits, 2, 1.0)) > FORBIDDEN
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0], [0, 0, 1, 1]])
    kept = np.asarray(restrict(logits, 0, 0.75)) > FORBIDDEN
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0], [0, 1, 1, 1]])
    kept = np.asarray(restrict(logits, 0, 1e-6)) > FORBIDDEN
    np.testing.assert_array_equal(kept, [[1, 0, 0, 0], [0, 0, 0, 1]])


@given(
    seed=st.integers(0, 2**32 - 1),
    words=st.sampled_from([1, 7, 3000]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999]),
)
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_fewest_that_reach_it(seed, words, spread, top_p) -> None:
    draw = np.random.RandomState(seed)
    logits = spread * draw.normal(size=(3, words))
    logits = np.where(draw.uniform(size=logits.shape) < 0.2, FORBIDDEN, logits)
    logits[:, 0] = 0.5  # one at least may come
    kept = np.asarray(restrict(jnp.asarray(logits, jnp.float32), 0, top_p)) > FORBIDDEN
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for row, chosen in zip(shares, kept, strict=True):
        least = row[chosen].min()
        assert row[chosen].sum() >= top_p - 1e-5
        # equal shares stay together
        assert row[row > least * (1 + 1e-5)].sum() < top_p + 1e-5
        assert np.all(row[~chosen] <= least * (1 + 1e-5))


@pytest.mark.parity
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.99])
def test_top_p_keeps_what_transformers_keeps(top_p) -> None:
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    logits = 3 * np.random.RandomState(1).normal(size=(8, 5000)).astype(np.float32)
    warp = transformers.generation.logits_process.TopPLogitsWarper(top_p)
    theirs = warp(None, torch.from_numpy(logits)).numpy() > -np.inf
    ours = np.asarray(restrict(jnp.asarray(logits), 0, top_p)) > FORBIDDEN
    np.testing.assert_array_equal(ours, theirs)


def test_temperature_draws_from_the_sharpened_distribution() -> None:
    logits = jnp.tile(jnp.array([[0.0, 1.0, FORBIDDEN]]), (20000, 1))
    drawn = choose(logits, jax.random.key(0), Method(temperature=0.5))
    share = np.bincount(np.asarray(drawn), minlength=3) / 20000
    expected = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(share, [1 - expected, expected, 0], atol=0.01)


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}])
def test_impossible_methods_are_refused(bad: dict) -> None:
    with pytest.raises(UserError):
        Method(**bad)
