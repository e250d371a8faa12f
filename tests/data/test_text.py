"""Prompts and completions can be written and read back."""

import pytest

from soler1_jax.data import text


@pytest.mark.parametrize("value", [-100, -5, 0, 7, 40, 100])
def test_a_completion_states_the_progress_it_was_given(value):
    written = text.progress_completion("gripper nearer, progress up", value)
    assert text.parse_progress(written) == value
    assert text.split_completion(written) == (
        "gripper nearer, progress up",
        f"{'-' if value < 0 else '+'}{abs(value):03d}",
    )


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "<think> x </think>",
        "<think> x </think><answer>040</answer>",
        "<think> x </think><answer>+40</answer>",
        "<think> x </think><answer>+140</answer>",
        "<answer>+040</answer><think> x </think>",
    ],
)
def test_other_forms_state_no_progress(broken):
    assert text.parse_progress(broken) is None


def test_a_prompt_hides_the_previous_progress_unless_asked():
    assert text.progress_prompt("Lift the  red cube.") == "lift the red cube"
    assert text.progress_prompt("Lift it.", 0) == "lift it before +000"
    assert text.progress_prompt("Lift it.", -7) == "lift it before -007"
