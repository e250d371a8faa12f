"""Numbers read from tokens on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.reward.spelling import read_number, spell, spelling
from soler1_jax.tokenizers.qwen import QwenTokenizer

READ = jax.jit(read_number, static_argnums=1)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("<think>well</think><answer>75%</answer>", 75),
        ("<answer>-50%</answer", -50),
        ("<answer>150</answer>", 100),
        ("<answer>-200%</answer>", -100),
        ("<answer> +7 % \n</answer>", 7),
        ("<answer>12.5%</answer>", 12.5),
        ("<answer>0</answer>", 0),
        ("<answer>40</answer> or <answer>90</answer>", 40),
        ("40%", None),
        ("<answer></answer>", None),
        ("<answer>-</answer>", None),
        ("<answer>forty</answer>", None),
        ("<answer>4 0</answer>", None),
        ("<answer>7", None),
        ("<answer>75%", None),
        ("<answer", None),
        ("<answer>1234567890123456</answer>", None),
        ("", None),
    ],
)
def test_a_number_is_read_where_one_is_stated(said, value):
    text = np.zeros((1, 64), np.uint8)
    text[0, : len(said)] = list(said.encode())
    number = READ(jnp.asarray(text), "<answer>")
    assert bool(number.found[0]) == (value is not None)
    assert float(number.value[0]) == pytest.approx(value or 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from pathlib import Path

    return QwenTokenizer(Path(__file__).parents[1] / "golden/qwen_tiny")


def test_tokens_are_spelled_as_the_tokenizer_decodes_them(tokenizer):
    texts = ["<think>näher – 近い</think>", "<answer>-40%</answer>", "a\n\n  b"]
    rows = [tokenizer.encode(text) for text in texts]
    tokens = np.zeros((3, max(map(len, rows)) + 2), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    count = np.array([len(ids) for ids in rows])
    table = spelling(tokenizer, tokenizer.vocab_size + 5)
    spelled = np.asarray(jax.jit(spell)(tokens, count, table))
    for row, text in zip(spelled, texts, strict=True):
        assert bytes(row).rstrip(b"\0").decode() == text
    assert spelled.shape == (3, tokens.shape[1] * 16)


def test_what_follows_the_end_is_not_read(tokenizer):
    ids = tokenizer.encode("<answer>40</answer>")
    table = spelling(tokenizer, tokenizer.vocab_size)
    whole = spell(np.array([ids]), np.array([len(ids)]), table)
    cut = spell(np.array([ids]), np.array([2]), table)
    assert bool(READ(whole, "<answer>").found[0])
    assert not bool(READ(cut, "<answer>").found[0])
