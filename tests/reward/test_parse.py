"""Reading completions, whatever they hold."""

import pytest

from soler1_jax.reward.parse import Statement, read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> it is nearer </think><answer>+040</answer>", ("it is nearer", 40)),
        ("<think>away</think> <answer>-005</answer>", ("away", -5)),
        ("<think> a </think><answer>the ball</answer>", ("a", None)),
        ("<think> a </think><answer>+900</answer>", ("a", None)),
        ("<think> cut off", ("", None)),
        ("", ("", None)),
    ],
)
def test_thought_and_number(text, expected):
    assert read(text) == Statement(*expected)
