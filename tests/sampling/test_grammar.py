"""Whatever the logits, completions parse; every progress can be said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.sampling import grammar as grammars
from soler1_jax.sampling.methods import FORBIDDEN
from soler1_jax.tokenizers import sentencepiece as sp

VOCAB, BUDGET = 30, 5


def _walk(grammar: grammars.Grammar, logits: np.ndarray) -> np.ndarray:
    """Follows the likeliest allowed tokens of [B, S, V] logits, in plain Python."""
    rows = []
    for steps in logits:
        state, tokens = 0, []
        for row in steps:
            allowed = grammar.following[state] >= 0
            token = int(np.argmax(np.where(allowed, row, -np.inf)))
            tokens.append(token)
            state = int(grammar.following[state, token])
        rows.append(tokens)
    return np.array(rows)


def _assert_form(tokens: list[int], budget: int) -> tuple[list[int], list[int]]:
    end = tokens.index(sp.EOS)
    assert all(t == sp.PAD for t in tokens[end + 1 :])
    assert tokens[0] == sp.THINK
    close = tokens.index(sp.END_THINK)
    thought = tokens[1:close]
    assert len(thought) <= budget
    assert tokens[close + 1] == sp.ANSWER
    assert tokens[end - 1] == sp.END_ANSWER
    answer = tokens[close + 2 : end - 1]
    assert all(t >= sp.PLUS for t in thought + answer)
    return thought, answer


@pytest.mark.parametrize("scale", [0.1, 10.0, 1e6])
def test_random_logits_always_give_a_number(scale: float) -> None:
    grammar = grammars.progress_grammar(VOCAB, BUDGET)
    rng = np.random.default_rng(0)
    tokens = _walk(grammar, scale * rng.normal(size=(400, grammar.length, VOCAB)))
    progress, parsed = grammars.read_progress(jnp.asarray(tokens))
    assert bool(parsed.all())
    for row, value in zip(tokens.tolist(), np.asarray(progress), strict=True):
        _, answer = _assert_form(row, BUDGET)
        assert len(answer) == 4
        number = int("".join(str(t - sp.FIRST_DIGIT) for t in answer[1:]))
        assert abs(number) <= 100
        assert value == (number if answer[0] == sp.PLUS else -number)
        assert not (answer[0] == sp.MINUS and number == 0)


def test_a_model_that_never_stops_is_stopped() -> None:
    grammar = grammars.progress_grammar(VOCAB, BUDGET)
    logits = np.zeros((1, grammar.length, VOCAB))
    logits[..., 25] = 9
    thought, _ = _assert_form(_walk(grammar, logits)[0].tolist(), BUDGET)
    assert thought == [25] * BUDGET


def test_every_progress_can_be_written() -> None:
    grammar = grammars.progress_grammar(VOCAB, BUDGET)
    written = []
    for value in range(-100, 101):
        sign = sp.MINUS if value < 0 else sp.PLUS
        digits = [sp.FIRST_DIGIT + int(d) for d in f"{abs(value):03d}"]
        written.append([4, 25, 5, 6, sign, *digits, 7, sp.EOS])
        state = 0
        for token in written[-1]:
            state = int(grammar.following[state, token])
            assert state != grammars.NEVER
    progress, parsed = grammars.read_progress(jnp.array(written))
    assert bool(parsed.all())
    np.testing.assert_array_equal(progress, np.arange(-100, 101))


def test_text_answers_hold_one_to_six_words() -> None:
    grammar = grammars.text_grammar(VOCAB, BUDGET, answer_budget=6)
    rng = np.random.default_rng(1)
    lengths = set()
    for row in _walk(grammar, rng.normal(size=(600, grammar.length, VOCAB))).tolist():
        _, answer = _assert_form(row, BUDGET)
        lengths.add(len(answer))
    assert min(lengths) == 1
    assert max(lengths) <= 6


def test_states_and_masks_follow_the_table() -> None:
    grammar = grammars.progress_grammar(VOCAB, BUDGET)
    rng = np.random.default_rng(2)
    tokens = _walk(grammar, rng.normal(size=(8, grammar.length, VOCAB)))
    states = np.asarray(grammar.states(jnp.asarray(tokens)))
    masked = grammar.mask(jnp.zeros((*states.shape, VOCAB)), jnp.asarray(states))
    chosen = np.take_along_axis(np.asarray(masked), tokens[..., None], axis=2)
    assert np.all(chosen == 0)
    np.testing.assert_array_equal(
        np.asarray(masked) == FORBIDDEN, grammar.following[states] == grammars.NEVER
    )
    answers = tokens[states == grammar.answer_state]
    assert set(answers.tolist()) == {sp.PLUS, sp.MINUS}


@pytest.mark.parametrize(
    "tokens",
    [
        [4, 5, 6, 9, 12, 11, 12, 7, 3],  # 101
        [4, 5, 6, 9, 12, 7, 3, 0, 0],  # one digit
        [4, 5, 6, 11, 11, 11, 11, 7, 3],  # no sign
        [4, 25, 25, 25, 25, 25, 25, 25, 25],  # no answer
        [4, 5, 9, 11, 11, 11, 5, 3, 6],  # cut short
    ],
)
def test_other_forms_do_not_parse(tokens: list[int]) -> None:
    progress, parsed = jax.jit(grammars.read_progress)(jnp.array([tokens]))
    assert not parsed[0]
    assert progress[0] == 0
