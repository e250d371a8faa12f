"""The vocabulary: fixed ids, single digits and signs, exact round trips."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers import sentencepiece as sp

TEXTS = [
    "lift the red cube",
    "push the blue ball to the left before +020",
    "<think> gripper nearer , touching cube </think><answer>+040</answer>",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> sp.Tokenizer:
    return sp.train_tokenizer(TEXTS, tmp_path_factory.mktemp("t") / "t.model", 400)


def test_fixed_ids(tokenizer: sp.Tokenizer) -> None:
    for token, marker in enumerate(sp.MARKERS, start=sp.THINK):
        assert tokenizer.encode(marker) == [token]
    text = "<answer>+1234567890-</answer>"
    digits = [sp.FIRST_DIGIT + int(d) for d in "1234567890"]
    assert tokenizer.encode(text) == [
        sp.ANSWER,
        sp.PLUS,
        *digits,
        sp.MINUS,
        sp.END_ANSWER,
    ]
    assert (sp.PAD, sp.UNK, sp.BOS, sp.EOS) == (0, 1, 2, 3)


def test_completion_reads_back(tokenizer: sp.Tokenizer) -> None:
    tight = "<think>gripper nearer , touching cube</think><answer>+040</answer>"
    assert tokenizer.decode(tokenizer.encode(TEXTS[2])) == tight
    assert tokenizer.encode(tight) == tokenizer.encode(TEXTS[2])
    assert sp.UNK not in tokenizer.encode(tight)


def test_frequent_words_are_single_tokens(tokenizer: sp.Tokenizer) -> None:
    assert len(tokenizer.encode("lift the red cube")) == 4


@hypothesis.given(
    st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
        max_size=5,
    )
)
def test_any_ascii_reads_back(tokenizer: sp.Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    hypothesis.assume(not any(marker in text for marker in sp.MARKERS))
    ids = tokenizer.encode(text)
    assert sp.UNK not in ids
    assert tokenizer.decode(ids) == text


def test_decoding_stops_at_end_and_padding(tokenizer: sp.Tokenizer) -> None:
    ids = tokenizer.encode("red cube")
    assert tokenizer.decode([*ids, sp.EOS, *ids]) == "red cube"
    assert tokenizer.decode(np.array([*ids, sp.PAD, *ids])) == "red cube"


def test_batches_are_padded_on_the_right(tokenizer: sp.Tokenizer) -> None:
    ids, mask = tokenizer.encode_batch(["red", "lift the red cube"], 6, end=True)
    assert ids.dtype == np.int32
    assert mask.sum(axis=1).tolist() == [2, 5]
    assert ids[0, 1] == sp.EOS
    assert np.all(ids[~mask] == sp.PAD)
    with pytest.raises(UserError, match="may have 3 tokens"):
        tokenizer.encode_batch(["lift the red cube"], 3)


def test_saved_vocabulary_is_the_same(tokenizer: sp.Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "copy.model")
    assert sp.Tokenizer(tmp_path / "copy.model").model == tokenizer.model


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        sp.Tokenizer(tmp_path / "none.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot be read"):
        sp.Tokenizer(tmp_path / "bad.model")
    with pytest.raises(UserError, match="got none"):
        sp.train_tokenizer([], tmp_path / "t.model", 100)
