"""What released models write, read in their own tags and paid for."""

import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.data import text
from soler1_jax.reward.sole import DEFAULT_WORDING
from soler1_jax.tokenizers.wording import Wording
from soler1_jax.training import refining
from soler1_jax.training.grouped import Completions
from soler1_jax.training.rewards import RewardConfig

OTHER = Wording(
    templates={"external": "{task} {previous}"},
    answer_tags=("[[", "]]"),
    thought_tags=None,
)


@pytest.mark.parametrize(
    ("reply", "wording", "progress"),
    [
        ("<think>near</think> <answer>40%</answer>", DEFAULT_WORDING, 40),
        ("<think> near </think><answer>-5</answer>\n", DEFAULT_WORDING, -5),
        ("<think></think><answer> +12.6 % </answer>", DEFAULT_WORDING, 13),
        ("it is near [[7%]]", OTHER, 7),
    ],
)
def test_numbers_in_the_models_own_form_are_read(reply, wording, progress):
    assert text.parse_progress(refining.canonical(reply, wording)) == progress


@pytest.mark.parametrize(
    ("reply", "wording", "paid"),
    [
        ("<think>a</think><answer>much</answer>", DEFAULT_WORDING, 0.25),
        ("<think>a</think><answer>400%</answer>", DEFAULT_WORDING, 0.25),
        ("<answer>40%</answer>", DEFAULT_WORDING, 0.0),
        ("<think>a</think><answer>40%</answer> and more", DEFAULT_WORDING, 0.0),
        ("<think>a</think><answer>40%", DEFAULT_WORDING, 0.0),
        ("", DEFAULT_WORDING, 0.0),
        # our own form is not that of other tags
        ("<think>a</think><answer>+040</answer>", OTHER, 0.0),
    ],
)
def test_other_forms_earn_less_or_nothing(reply, wording, paid):
    graded = _grade([reply], [40.0], wording)
    assert graded.total.tolist() == [paid]


def _grade(replies, progress, wording=DEFAULT_WORDING, group=1, claims=None):
    ids = [list(map(ord, reply)) for reply in replies]
    tokens = np.zeros((len(ids), max(map(len, ids)) + 3), np.int32)
    for row, reply in zip(tokens, ids, strict=True):
        row[: len(reply)] = reply
    lengths = jnp.array([len(reply) for reply in ids]).reshape(-1, group)
    out = Completions(
        jnp.asarray(tokens).reshape(-1, group, tokens.shape[1]),
        lengths,
        None,
        None,
        None,
    )
    questions = refining.Questions(
        None,
        jnp.asarray(progress, jnp.float32),
        jnp.full((len(progress), 8), -1) if claims is None else jnp.asarray(claims),
    )
    grader = refining.Grader(
        lambda numbers: "".join(map(chr, numbers)),
        wording,
        RewardConfig(tau=10.0, claims=0.5 if claims is not None else 0.0),
    )
    return grader(questions, out)


def test_each_answer_is_compared_with_the_truth_of_its_question():
    said = [f"<think>x</think><answer>{n}%</answer>" for n in (10, 20, 30, 40)]
    graded = _grade(said, [10.0, 30.0], group=2)
    errors = np.array([0, 10, 0, 10])
    wanted = 1.5 * np.exp(-errors / 10)
    np.testing.assert_allclose(graded.accuracy, wanted, rtol=1e-6)
    np.testing.assert_allclose(graded.form, 0.5)


def test_true_claims_are_paid_for_if_wanted():
    said = ["<think>gripper nearer</think><answer>1%</answer>"] * 2
    nearer = [0, *[-1] * 7]
    farther = [1, *[-1] * 7]
    graded = _grade(said, [1.0, 1.0], claims=[nearer, farther])
    assert graded.claims[0] == 0.5 and graded.claims[1] <= 0
