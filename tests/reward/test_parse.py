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
        ("<think>so</think> so <answer> -40.6% </answer>", ("so", -41)),
        ("it moves. <answer>75</answer>", ("it moves.", 75)),
        ("it moves. <answer>7", ("it moves.", None)),
        ("", ("", None)),
    ],
)
def test_thought_and_number(text, expected):
    assert read(text) == Statement(*expected)
