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
    group: int = 1,
    noted_temperature: float = 1.0,
) -> Written:
    """Writes completions of prefixes: `begin`, then `finish`.

    Args:
      model: bound model, e.g. `functional.module(params)`.
      prefix: of `VLM.prefix` or `VLM.mix`, B sequences.
      key: random key; unused when greedy.
      length: S, the most tokens.
      stop_ids: tokens after which a sequence ends.
      method: how tokens are drawn.
      group: completions of each prefix, which is run once for all.
      noted_temperature: of the distribution whose log-probabilities are noted.

    Returns:
      Written, of B * group sequences, those of a prefix together. `logprobs` are those
      of the whole vocabulary, before top-k and top-p.

    Raises:
      UserError: `length` is not positive.
    """
    options = {
        "stop_ids": stop_ids,
        "method": method,
        "noted_temperature": noted_temperature,
    }
    writing = begin(model, prefix, key, length=length, group=group, **options)
    return finish(model, writing, **options).written


def begin(
    model: Model,
    prefix: Any,
    key: jax.Array,
    *,
    length: int,
    stop_ids: tuple[int, ...] = (),
    method: Method = GREEDY,
    group: int = 1,
    noted_temperature: float = 1.0,
) -> Writing:
    """Runs the prefix and writes the first token; the arguments are those of `write`."""
    require_positive("length", length)
    # The last token is not fed back, so it needs no place.
    cache, step, _ = model.prefill(prefix, length - 1, group)
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
    return _pick(writing, step.logits, stop_ids, method, noted_temperature)


def finish(
    model: Model,
    writing: Writing,
    *,
    stop_ids: tuple[int, ...] = (),
    method: Method = GREEDY,
    noted_temperature: float = 1.0,
) -> Writing:
    """Writes the other tokens; the options are those of `begin`.

    What it returns has the arrays of what it takes, so that these can be donated.
    """
    length = writing.written.tokens.shape[1]

    def body(carry: Writing) -> Writing:
        cache, step = model.decode_step(carry.cache, carry.token)
        carry = carry._replace(cache=cache)
        return _pick(carry, step.logits, stop_ids, method, noted_temperature)

    def unfinished(carry: Writing) -> jax.Array:
        return jnp.any(carry.open) & (carry.index < length)

    # By this name `soler1 plan` and profiles know the loop.
    with jax.named_scope("write"):
        return jax.lax.while_loop(unfinished, body, writing)


def _pick(
    carry: Writing,
    logits: jax.Array,
    stop_ids: tuple[int, ...],
    method: Method,
    noted: float,
) -> Writing:
    """Chooses a token for every open sequence and writes it down."""
    key, draw = jax.random.split(carry.key)
    token = jnp.where(carry.open, choose(logits, draw, method), 0)
    scaled = logits / noted
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
    logprob = chosen - jax.scipy.special.logsumexp(scaled, axis=1)
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
