"""Reads the number in a written answer inside jit: tokens to bytes, bytes to a number.

A released rewarder writes free text, and its next question holds what it stated before,
so the number must be known without leaving the device. A token is a few bytes of UTF-8;
a table of them turns tokens to text, and a small automaton reads the number.

Letters: B texts, S tokens, V token ids, W bytes kept of a token, N = S*W bytes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.rewarder import MAX_PROGRESS
from soler1_jax.tokenizers.qwen import QwenTokenizer

# Longer tokens are runs of spaces or long words; no tag and no number is in them.
TOKEN_BYTES = 16
# Sign, digits, percent, spaces and the closing tag's first byte.
NUMBER_BYTES = 16

_BAD, _BEFORE, _SIGN, _DIGITS, _DECIMALS, _AFTER, _DONE = range(7)


class Spelling(NamedTuple):
    """How tokens are spelled."""

    text: jax.Array  # uint8 [V, W]
    lengths: jax.Array  # int32 [V]


class Number(NamedTuple):
    """What answers state."""

    value: jax.Array  # float32 [B], percent in [-100, 100]; 0 where nothing is stated
    found: jax.Array  # bool [B]


def spelling(tokenizer: QwenTokenizer, vocab_size: int) -> Spelling:
    """Makes the table.

    Args:
      tokenizer: of the model.
      vocab_size: V, rows of the model's embedding table.
    """
    text = np.zeros((vocab_size, TOKEN_BYTES), np.uint8)
    lengths = np.zeros(vocab_size, np.int32)
    byte_of = _byte_alphabet()
    special = {number: token for token, number in tokenizer.special_ids.items()}
    for number in range(min(vocab_size, tokenizer.vocab_size)):
        if number in special:
            spelled = special[number].encode()
        else:
            spelled = bytes(byte_of[c] for c in tokenizer.piece(number))
        spelled = spelled[:TOKEN_BYTES]
        text[number, : len(spelled)] = np.frombuffer(spelled, np.uint8)
        lengths[number] = len(spelled)
    return Spelling(text, lengths)


def spell(tokens: jax.Array, count: jax.Array, table: Spelling) -> jax.Array:
    """Writes out tokens.

    Args:
      tokens: int32 [B, S].
      count: int32 [B], tokens that were written; later ones are left out.
      table: of `spelling`.

    Returns:
      uint8 [B, N], 0 after the end.
    """
    batch, length = tokens.shape
    there = jnp.arange(length) < count[:, None]
    lengths = jnp.where(there, table.lengths[tokens], 0)
    starts = jnp.cumsum(lengths, axis=1) - lengths
    offsets = jnp.arange(TOKEN_BYTES)
    places = starts[..., None] + offsets
    total = length * TOKEN_BYTES
    places = jnp.where(offsets < lengths[..., None], places, total)
    rows = jnp.arange(batch)[:, None, None]
    blank = jnp.zeros((batch, total), jnp.uint8)
    return blank.at[rows, places].set(table.text[tokens], mode="drop")


def read_number(text: jax.Array, opening: str) -> Number:
    """Reads the first number that follows the first opening tag.

    A sign, digits and decimals, with spaces and percent signs around them, closed by the
    `<` of a tag. Anything else states nothing: an answer that broke off in the middle of a
    number must not be taken for a smaller one. Numbers beyond +-100 are clipped.

    Args:
      text: uint8 [B, N] of `spell`.
      opening: the tag, such as "<answer>".
    """
    tag = np.frombuffer(opening.encode(), np.uint8)
    padded = jnp.pad(text, ((0, 0), (0, len(tag) + NUMBER_BYTES)))
    length = text.shape[1]
    fits = jnp.ones(text.shape, bool)
    for offset, byte in enumerate(tag):
        fits &= padded[:, offset : offset + length] == byte
    begin = jnp.argmax(fits, axis=1) + len(tag)
    window = begin[:, None] + jnp.arange(NUMBER_BYTES)
    value, closed = _automaton(jnp.take_along_axis(padded, window, axis=1))
    found = fits.any(axis=1) & closed
    value = jnp.clip(value, -MAX_PROGRESS, MAX_PROGRESS)
    return Number(jnp.where(found, value, 0.0), found)


def _automaton(window: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value float32 [B] of windows uint8 [B, n], and whether they hold a number."""

    def step(carry: tuple, byte: jax.Array) -> tuple[tuple, None]:
        state, sign, value, unit = carry
        digit = (byte >= ord("0")) & (byte <= ord("9"))
        filler = jnp.isin(byte, jnp.array(list(b" \n\r\t%"), jnp.uint8))
        signed = (byte == ord("-")) | (byte == ord("+"))
        number = (byte - ord("0")).astype(jnp.float32)
        decimal = digit & (state == _DECIMALS)
        whole = digit & jnp.isin(state, jnp.array([_BEFORE, _SIGN, _DIGITS]))
        unit = jnp.where(decimal, unit / 10, unit)
        value = jnp.where(whole, 10 * value + number, value)
        value = jnp.where(decimal, value + number * unit, value)
        sign = jnp.where((byte == ord("-")) & (state == _BEFORE), -1.0, sign)
        numbered = jnp.isin(state, jnp.array([_DIGITS, _DECIMALS, _AFTER]))
        following = jnp.select(
            [
                state == _DONE,
                whole,
                decimal,
                filler & (state == _BEFORE),
                filler & numbered,
                signed & (state == _BEFORE),
                (byte == ord(".")) & (state == _DIGITS),
                (byte == ord("<")) & numbered,
            ],
            [_DONE, _DIGITS, _DECIMALS, _BEFORE, _AFTER, _SIGN, _DECIMALS, _DONE],
            _BAD,
        )
        return (following, sign, value, unit), None

    batch = window.shape[0]
    carry = (
        jnp.full(batch, _BEFORE),
        jnp.ones(batch),
        jnp.zeros(batch),
        jnp.ones(batch),
    )
    (state, sign, value, _), _ = jax.lax.scan(step, carry, window.T)
    return sign * value, state == _DONE


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level BPE piece stands for (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = printable + [256 + i for i in range(len(others))]
    return {chr(c): b for c, b in zip(letters, printable + others, strict=True)}
