"""Free generation on a real micro model: teacher forcing, stopping, sampling."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional, Params
from soler1_jax.sampling.methods import GREEDY, Method
from soler1_jax.sampling.unconstrained import write

VOCAB, LENGTH = 40, 9
MODEL = Functional(presets.micro(VOCAB))
PROMPT = jnp.array([[21, 22, 23], [24, 25, 0], [26, 0, 0]])


def _prefix(vlm: Any) -> Any:
    picture = jax.random.randint(jax.random.key(1), (3, 16, 16, 3), 0, 256)
    features = vlm.encode(picture.astype(jnp.uint8))
    return vlm.prefix(
        [vlm.ground(features, PROMPT, PROMPT != 0)] * 3, PROMPT, PROMPT != 0
    )


@functools.partial(jax.jit, static_argnames=("method", "stop_ids"))
def _write(
    params: Params, key: jax.Array, method: Method, stop_ids: tuple[int, ...] = ()
) -> Any:
    vlm = MODEL.module(params)
    return write(
        vlm, _prefix(vlm), key, length=LENGTH, stop_ids=stop_ids, method=method
    )


@jax.jit
def _forced(params: Params, tokens: jax.Array) -> jax.Array:
    vlm = MODEL.module(params)
    return vlm.logits(_prefix(vlm), tokens, jnp.ones(tokens.shape, bool)).logits


@pytest.fixture(scope="module")
def params() -> Params:
    params = MODEL.init(0)
    # Sharper than at birth, so that the order of tokens is not a matter of rounding.
    params["lm_head"]["kernel"] = params["lm_head"]["kernel"] * 3
    return params


@pytest.mark.parametrize("method", [GREEDY, Method(temperature=1.0)])
def test_logprobs_are_those_of_teacher_forcing(params: Params, method: Method) -> None:
    said = _write(params, jax.random.key(0), method)
    logits = _forced(params, said.tokens)
    logs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logs, said.tokens[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(said.logprobs, chosen, atol=1e-4)
    np.testing.assert_array_equal(said.lengths, [LENGTH] * 3)
    if method == GREEDY:
        np.testing.assert_array_equal(said.tokens, jnp.argmax(logits, axis=-1))


def test_a_sequence_ends_with_its_stop_token(params: Params) -> None:
    free = _write(params, jax.random.key(5), Method(temperature=1.0))
    stop = (int(free.tokens[0, 2]), int(free.tokens[1, 4]))
    said = _write(params, jax.random.key(5), Method(temperature=1.0), stop)
    for row in range(3):
        hits = np.flatnonzero(np.isin(free.tokens[row], stop))
        length = hits[0] + 1 if len(hits) else LENGTH
        assert said.lengths[row] == length
        np.testing.assert_array_equal(
            said.tokens[row, :length], free.tokens[row, :length]
        )
        assert not np.any(said.tokens[row, length:])
        assert not np.any(said.logprobs[row, length:])
    assert int(said.lengths.min()) < LENGTH


def test_no_length_is_refused(params: Params) -> None:
    vlm = MODEL.module(params)
    with pytest.raises(UserError, match="length must be positive"):
        write(vlm, None, jax.random.key(0), length=0)
