"""Qwen's vocabulary: ids of the reference, special tokens by name, clear refusals."""

import json
import unicodedata
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import qwen_corpus as corpus

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.qwen import QwenTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def tokenizer() -> QwenTokenizer:
    return QwenTokenizer(GOLDEN / "qwen_tiny")


def _rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_ids_are_those_of_the_reference(tokenizer):
    golden = json.loads((GOLDEN / "qwen_text.json").read_text())["ids"]
    assert len(golden) == len(corpus.TEXTS)
    for text, ids in zip(corpus.TEXTS, golden, strict=True):
        assert tokenizer.encode(text) == ids, text


@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_reads_back_normalised(tokenizer, text):
    normal = unicodedata.normalize("NFC", text)
    # Newer Unicode tables than the library's differ in a few marks.
    hypothesis.assume(unicodedata.normalize("NFC", normal) == normal)
    again = tokenizer.decode(tokenizer.encode(text))
    assert unicodedata.normalize("NFC", again) == normal


def test_special_tokens_are_one_id_and_can_be_left_out(tokenizer):
    text = "<|im_start|>user\nred<|vision_start|><|image_pad|><|vision_end|><|im_end|>"
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.im_start_id
    assert ids[-4:] == [
        tokenizer.vision_start_id,
        tokenizer.image_pad_id,
        tokenizer.vision_end_id,
        tokenizer.im_end_id,
    ]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(np.array(ids), skip_special=True) == "user\nred"
    # Added, yet not special: a reasoning model's answer keeps its marks.
    thought = "<think>a</think>"
    assert len(tokenizer.encode(thought)) == 3
    assert tokenizer.decode(tokenizer.encode(thought), skip_special=True) == thought


def test_ids_come_from_the_file(qwen_folder):
    def shift(content):
        for token in content["added_tokens"]:
            token["id"] += 7
        content["added_tokens"] += [
            {**content["added_tokens"][0], "id": 1000, "content": "<|prog_token|>"}
        ]

    # Ids of added tokens are given by the library from the vocabulary's end on, so the
    # gap has to be in the vocabulary.
    def grow(content):
        vocab = content["model"]["vocab"]
        for extra in range(7):
            vocab[f"extra{extra}"] = 700 + extra
        shift(content)

    before = QwenTokenizer(qwen_folder)
    (qwen_folder / "tokenizer_config.json").unlink()
    _rewrite(qwen_folder / "tokenizer.json", grow)
    after = QwenTokenizer(qwen_folder)
    assert after.image_pad_id == before.image_pad_id + 7
    assert after.encode("<|video_pad|>") == [before.video_pad_id + 7]
    assert after.special_ids["<|prog_token|>"] == after.vocab_size - 1
    assert after.eos_id == after.im_end_id


def test_end_and_padding_are_what_the_folder_says(qwen_folder, tokenizer):
    assert tokenizer.eos_id == tokenizer.im_end_id
    assert tokenizer.piece(tokenizer.pad_id) == "<|endoftext|>"
    path = qwen_folder / "tokenizer_config.json"
    _rewrite(path, lambda c: c.update(eos_token={"content": "<|endoftext|>"}))
    assert QwenTokenizer(qwen_folder).eos_id == tokenizer.pad_id


def test_ids_beyond_the_vocabulary_have_no_text(tokenizer):
    ids = tokenizer.encode("red cube")
    beyond = tokenizer.vocab_size + 5
    assert tokenizer.decode([*ids, beyond]) == "red cube"
    assert tokenizer.piece(beyond) == ""


def test_batches_end_together(tokenizer):
    texts = ["red", "lift the red cube"]
    ids, mask = tokenizer.encode_batch(texts, 20)
    assert ids.dtype == np.int32
    for row, text in enumerate(texts):
        assert ids[row][mask[row]].tolist() == tokenizer.encode(text)
        assert mask[row, -1] and not mask[row, 0]
    assert np.all(ids[~mask] == tokenizer.pad_id)
    right, right_mask = tokenizer.encode_batch(texts, 20, left=False)
    assert right_mask[0, 0] and not right_mask[0, -1]
    assert right[right_mask].tolist() == ids[mask].tolist()
    with pytest.raises(UserError, match="may have 3 tokens"):
        tokenizer.encode_batch(texts, 3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "has none"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "must be readable"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "must be readable"),
        (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "has a list"),
        (lambda f: (f / "tokenizer_config.json").write_text("{,"), "must be JSON"),
        (
            lambda f: _rewrite(
                f / "tokenizer.json",
                lambda c: c.update(added_tokens=c["added_tokens"][:12]),
            ),
            "lacks <|image_pad|> <|video_pad|>",
        ),
        (
            lambda f: _rewrite(
                f / "tokenizer_config.json",
                lambda c: c["added_tokens_decoder"].update(
                    {"5": {"content": "<|im_start|>"}}
                ),
            ),
            "is 701 in the first and 5 in the second",
        ),
        (
            lambda f: _rewrite(
                f / "tokenizer_config.json", lambda c: c.update(eos_token="<|im_ende|>")
            ),
            "did you mean '<|im_end|>'",
        ),
    ],
)
def test_wrong_files_are_refused(qwen_folder, spoil, said):
    spoil(qwen_folder)
    with pytest.raises(UserError) as caught:
        QwenTokenizer(qwen_folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
