"""Generation inside `jit`: prefix in, completions out, with a key-value cache.

Sizes are static; the loop ends early once every sequence has nothing left to choose.
Letters: B sequences, S tokens, V token ids.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from soler1_jax.sampling.grammar import Grammar, read_progress
from soler1_jax.sampling.methods import GREEDY, Method, choose

# `</answer>` and the end token, which need no model.
_TAIL = 2


class Model(Protocol):
    """What generation needs: `VLM`, or anything with its cache methods."""

    def prefill(
        self, prefix: Any, capacity: int, group: int = 1
    ) -> tuple[Any, Any, jax.Array]:
        """Prefix -> cache, predictions of the first token, state, `group` times each."""

    def decode_step(self, cache: Any, token: jax.Array) -> tuple[Any, Any]:
        """Cache, token int32 [B] -> cache, predictions of the next token."""


class Generation(NamedTuple):
    """Completions and what was read from them."""

    tokens: jax.Array  # int32 [B, S], 0 after the end
    logprobs: jax.Array  # float32 [B, S], nats; 0 where the token was forced
    progress: jax.Array  # float32 [B], percent
    parsed: jax.Array  # bool [B], whether the answer is a progress
    value_logits: jax.Array  # float32 [B, bins], where the answer starts
    glance_logits: jax.Array  # float32 [B, bins], where the thought starts
    state: jax.Array  # float32 [B, state_size], at the last word of the prompt


class _Carry(NamedTuple):
    cache: Any
    token: jax.Array
    grammar_state: jax.Array
    index: jax.Array
    key: jax.Array
    tokens: jax.Array
    logprobs: jax.Array
    value_logits: jax.Array


def generate(
    model: Model,
    prefix: Any,
    key: jax.Array,
    *,
    grammar: Grammar,
    method: Method = GREEDY,
    group: int = 1,
    noted_temperature: float = 1.0,
) -> Generation:
    """Writes completions of prefixes.

    Args:
      model: bound model, e.g. `functional.module(params)`.
      prefix: of `VLM.prefix`.
      key: random key; unused when greedy.
      grammar: what may be written; S is its length.
      method: how tokens are drawn.
      group: completions of each prefix, which is run once for all.
      noted_temperature: of the distribution whose log-probabilities are noted.

    Returns:
      Generation; completions of a prefix lie together. `logprobs` are those of the
      grammar's renormalised distribution at `noted_temperature`, before top-k and top-p:
      `Grammar.states` and `Grammar.mask` over teacher-forced logits give the same numbers.
    """
    length = grammar.length
    cache, step, state = model.prefill(prefix, length, group)
    batch = step.logits.shape[0]
    carry = _Carry(
        cache=cache,
        token=jnp.zeros(batch, jnp.int32),
        grammar_state=jnp.zeros(batch, jnp.int32),
        index=jnp.int32(0),
        key=key,
        tokens=jnp.zeros((batch, length), jnp.int32),
        logprobs=jnp.zeros((batch, length)),
        value_logits=jnp.zeros_like(step.value_logits),
    )
    glance_logits = step.value_logits
    carry = _pick(carry, step, grammar, method, noted_temperature)

    def body(carry: _Carry) -> _Carry:
        cache, step = model.decode_step(carry.cache, carry.token)
        carry = carry._replace(cache=cache)
        return _pick(carry, step, grammar, method, noted_temperature)

    def unfinished(carry: _Carry) -> jax.Array:
        open_ = jnp.any(carry.grammar_state < grammar.closed_state)
        return open_ & (carry.index < length - _TAIL)

    carry = jax.lax.while_loop(unfinished, body, carry)
    tokens = _close(carry, grammar)
    progress, parsed = read_progress(tokens)
    return Generation(
        tokens=tokens,
        logprobs=carry.logprobs,
        progress=progress,
        parsed=parsed,
        value_logits=carry.value_logits,
        glance_logits=glance_logits,
        state=state,
    )


def _pick(
    carry: _Carry, step: Any, grammar: Grammar, method: Method, noted: float
) -> _Carry:
    """Chooses a token from predictions and writes it down."""
    key, draw = jax.random.split(carry.key)
    state = carry.grammar_state
    logits = grammar.mask(step.logits, state)
    token = choose(logits, draw, method)
    scaled = logits / noted
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
    logprob = chosen - jax.scipy.special.logsumexp(scaled, axis=1)
    answering = (state == grammar.answer_state)[:, None]
    return _Carry(
        cache=carry.cache,
        token=token,
        grammar_state=grammar.advance(state, token),
        index=carry.index + 1,
        key=key,
        tokens=carry.tokens.at[:, carry.index].set(token),
        logprobs=carry.logprobs.at[:, carry.index].set(logprob),
        value_logits=jnp.where(answering, step.value_logits, carry.value_logits),
    )


def _close(carry: _Carry, grammar: Grammar) -> jax.Array:
    """Writes the forced tokens that end the sequences which finished last."""
    tokens, state = carry.tokens, carry.grammar_state
    for offset in range(_TAIL):
        token = grammar.forced(state)
        tokens = tokens.at[:, carry.index + offset].set(token)
        state = grammar.advance(state, token)
    return tokens
