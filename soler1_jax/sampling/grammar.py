"""What may be generated: a table from state and token to the next state.

    <think> words ... </think> <answer> sign digit digit digit </answer> end padding ...

The thought ends at its budget at the latest, the number is at most 100 in size, and
minus nought is not written; so whatever the logits, every completion parses. Looking up
a table costs nothing inside `jit`. Letters: B sequences, S tokens, V token ids, Q states.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import require_positive
from soler1_jax.sampling.methods import FORBIDDEN
from soler1_jax.tokenizers import sentencepiece as ids

NEVER = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
    """An automaton over tokens; state 0 is the start.

    Attributes:
      following: int32 [Q, V], the next state, `NEVER` for a forbidden token.
      answer_state: the state in which the answer's first token is chosen.
      closed_state: from this state on every token is forced.
      length: S, tokens of the longest completion, the end token included.
    """

    following: np.ndarray
    answer_state: int
    closed_state: int
    length: int

    def mask(self, logits: jax.Array, state: jax.Array) -> jax.Array:
        """Forbids tokens: float32 [..., V] logits in int32 [...] states."""
        allowed = jnp.asarray(self.following >= 0)[state]
        return jnp.where(allowed, logits, FORBIDDEN)

    def advance(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """Next states after allowed tokens, int32 [...]; forbidden ones keep the state."""
        after = jnp.asarray(self.following)[state, token]
        return jnp.where(after == NEVER, state, after)

    def states(self, tokens: jax.Array) -> jax.Array:
        """The state before each token: int32 [B, S] -> int32 [B, S].

        With `mask` this recomputes the distribution that sampling drew from.
        """
        start = jnp.zeros(tokens.shape[0], jnp.int32)
        _, states = jax.lax.scan(
            lambda state, token: (self.advance(state, token), state), start, tokens.T
        )
        return states.T

    def free(self, state: jax.Array) -> jax.Array:
        """Whether more than one token is allowed, bool [...]: else nothing is chosen."""
        return jnp.asarray((self.following >= 0).sum(axis=1) > 1)[state]

    def forced(self, state: jax.Array) -> jax.Array:
        """The first allowed token of each state, int32 [...]."""
        first = np.argmax(self.following >= 0, axis=1).astype(np.int32)
        return jnp.asarray(first)[state]


class _Table:
    """Collects states and transitions; states are named, then numbered."""

    def __init__(self, vocab_size: int) -> None:
        self.numbers: dict[object, int] = {}
        self.rows: list[np.ndarray] = []
        self.vocab_size = vocab_size

    def state(self, name: object) -> int:
        """Number of a state, which is made when first named."""
        if name not in self.numbers:
            self.numbers[name] = len(self.rows)
            self.rows.append(np.full(self.vocab_size, NEVER, np.int32))
        return self.numbers[name]

    def allow(self, name: object, tokens: object, following: object) -> None:
        """Adds transitions from one state to another."""
        # The source is numbered first, so that the start is state 0.
        row = self.rows[self.state(name)]
        row[tokens] = self.state(following)


def progress_grammar(vocab_size: int, thought_budget: int = 28) -> Grammar:
    """Thought of up to `thought_budget` tokens, then a number in [-100, 100]."""
    table = _thought(vocab_size, thought_budget)
    digits = [ids.FIRST_DIGIT + i for i in range(10)]
    for sign, token in (("+", ids.PLUS), ("-", ids.MINUS)):
        table.allow("answer", token, ("hundreds", sign))
        table.allow(("hundreds", sign), digits[0], ("tens", sign))
        table.allow(("hundreds", sign), digits[1], "zero, zero")
        table.allow(("tens", sign), digits[1:], "ones")
    table.allow(("tens", "+"), digits[0], "ones")
    table.allow(("tens", "-"), digits[0], "ones but zero")
    table.allow("zero, zero", digits[0], "zero")
    table.allow("zero", digits[0], "close")
    table.allow("ones", digits, "close")
    table.allow("ones but zero", digits[1:], "close")
    return _close(table, thought_budget + 4)


def text_grammar(
    vocab_size: int, thought_budget: int = 28, answer_budget: int = 6
) -> Grammar:
    """Thought, then an answer of one to `answer_budget` tokens, for questions."""
    require_positive("answer_budget", answer_budget)
    table = _thought(vocab_size, thought_budget)
    words = np.arange(ids.PLUS, vocab_size)
    before: object = "answer"
    for count in range(1, answer_budget + 1):
        table.allow(before, words, ("words", count))
        table.allow(("words", count), ids.END_ANSWER, "end")
        before = ("words", count)
    return _close(table, thought_budget + answer_budget)


def _thought(vocab_size: int, budget: int) -> _Table:
    require_positive("thought_budget", budget)
    table = _Table(vocab_size)
    words = np.arange(ids.PLUS, vocab_size)
    table.allow("start", ids.THINK, ("thought", 0))
    for used in range(budget):
        table.allow(("thought", used), words, ("thought", used + 1))
        table.allow(("thought", used), ids.END_THINK, "tag")
    table.allow(("thought", budget), ids.END_THINK, "tag")
    table.allow("tag", ids.ANSWER, "answer")
    return table


def _close(table: _Table, words: int) -> Grammar:
    table.allow("close", ids.END_ANSWER, "end")
    table.allow("end", ids.EOS, "done")
    table.allow("done", ids.PAD, "done")
    answer = table.state("answer")
    rows = np.stack(table.rows)
    # Forced to the end once `close` is reached: renumber so that one comparison tells.
    closed = [table.state(name) for name in ("close", "end", "done")]
    order = [i for i in range(len(rows)) if i not in closed] + closed
    number = np.full(len(rows) + 1, NEVER, np.int32)
    number[order] = np.arange(len(rows))
    return Grammar(
        following=number[rows[order]],
        answer_state=int(number[answer]),
        closed_state=len(rows) - 3,
        length=words + 5,
    )


def read_progress(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads the number after the first `<answer>`.

    Args:
      tokens: int32 [B, S].

    Returns:
      progress float32 [B], percent (0 where there is none), and bool [B], whether the
      four tokens are a sign and three digits of a number of at most 100 in size.
    """
    padded = jnp.pad(tokens, ((0, 0), (0, 5)))
    start = jnp.argmax(padded == ids.ANSWER, axis=1)
    found = jnp.any(tokens == ids.ANSWER, axis=1)
    places = start[:, None] + jnp.arange(1, 5)
    written = jnp.take_along_axis(padded, places, axis=1)
    digits = written[:, 1:] - ids.FIRST_DIGIT
    size = digits @ jnp.array([100, 10, 1])
    signed = (written[:, 0] == ids.PLUS) | (written[:, 0] == ids.MINUS)
    parsed = found & signed & jnp.all((digits >= 0) & (digits <= 9), axis=1)
    parsed = parsed & (size <= 100)
    progress = jnp.where(written[:, 0] == ids.MINUS, -size, size)
    return jnp.where(parsed, progress, 0).astype(jnp.float32), parsed
