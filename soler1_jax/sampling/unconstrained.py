"""Generation without a grammar: prefix in, tokens out, until a stop token.

For checkpoints that write free text. Sizes are static; the loop ends early once every
sequence has stopped.
Letters: B sequences, S tokens, V token ids.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import require_positive
from soler1_jax.sampling.loop import Model
from soler1_jax.sampling.methods import GREEDY, Method, choose


class Written(NamedTuple):
    """Completions."""

    tokens: jax.Array  # int32 [B, S], 0 after the stop token
    lengths: jax.Array  # int32 [B], tokens written, the stop token included
    logprobs: jax.Array  # float32 [B, S], nats at temperature 1; 0 after the stop token


class Writing(NamedTuple):
    """Completions half written, or wholly."""

    cache: Any
    token: jax.Array
    open: jax.Array
    index: jax.Array
    key: jax.Array
    written: Written


def write(
    model: Model,
    prefix: Any,
    key: jax.Array,
    *,
    length: int,
    stop_ids: tuple[int, ...] = (),
    method: Method = GREEDY,
) -> Written:
    """Writes one completion per prefix: `begin`, then `finish`.

    Args:
      model: bound model, e.g. `functional.module(params)`.
      prefix: of `VLM.prefix` or `VLM.mix`, B sequences.
      key: random key; unused when greedy.
      length: S, the most tokens.
      stop_ids: tokens after which a sequence ends.
      method: how tokens are drawn.

    Returns:
      Written. `logprobs` are those of the whole vocabulary, before top-k and top-p.

    Raises:
      UserError: `length` is not positive.
    """
    writing = begin(model, prefix, key, length=length, stop_ids=stop_ids, method=method)
    return finish(model, writing, stop_ids=stop_ids, method=method).written


def begin(
    model: Model,
    prefix: Any,
    key: jax.Array,
    *,
    length: int,
    stop_ids: tuple[int, ...] = (),
    method: Method = GREEDY,
) -> Writing:
    """Runs the prefix and writes the first token; the arguments are those of `write`."""
    require_positive("length", length)
    # The last token is not fed back, so it needs no place.
    cache, step, _ = model.prefill(prefix, length - 1)
    batch = step.logits.shape[0]
    writing = Writing(
        cache=cache,
        token=jnp.zeros(batch, jnp.int32),
        open=jnp.ones(batch, bool),
        index=jnp.int32(0),
        key=key,
        written=Written(
            jnp.zeros((batch, length), jnp.int32),
            jnp.zeros(batch, jnp.int32),
            jnp.zeros((batch, length)),
        ),
    )
    return _pick(writing, step.logits, stop_ids, method)


def finish(
    model: Model,
    writing: Writing,
    *,
    stop_ids: tuple[int, ...] = (),
    method: Method = GREEDY,
) -> Writing:
    """Writes the other tokens; stop tokens and method are those of `begin`.

    What it returns has the arrays of what it takes, so that these can be donated.
    """
    length = writing.written.tokens.shape[1]

    def body(carry: Writing) -> Writing:
        cache, step = model.decode_step(carry.cache, carry.token)
        return _pick(carry._replace(cache=cache), step.logits, stop_ids, method)

    def unfinished(carry: Writing) -> jax.Array:
        return jnp.any(carry.open) & (carry.index < length)

    return jax.lax.while_loop(unfinished, body, writing)


def _pick(
    carry: Writing, logits: jax.Array, stop_ids: tuple[int, ...], method: Method
) -> Writing:
    """Chooses a token for every open sequence and writes it down."""
    key, draw = jax.random.split(carry.key)
    token = jnp.where(carry.open, choose(logits, draw, method), 0)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    logprob = chosen - jax.scipy.special.logsumexp(logits, axis=1)
    written, place = carry.written, carry.index
    stops = jnp.isin(token, jnp.asarray(stop_ids, jnp.int32))
    return Writing(
        cache=carry.cache,
        token=token,
        open=carry.open & ~stops,
        index=place + 1,
        key=key,
        written=Written(
            written.tokens.at[:, place].set(token),
            written.lengths + carry.open,
            written.logprobs.at[:, place].set(jnp.where(carry.open, logprob, 0)),
        ),
    )
