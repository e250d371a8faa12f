"""Gemma's vocabulary: both files give the same ids, special tokens by name, refusals."""

import json
from pathlib import Path

import gemma_tiny
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.gemma import GemmaTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, GemmaTokenizer]:
    root = tmp_path_factory.mktemp("gemma")
    return {
        form: GemmaTokenizer(gemma_tiny.write_folder(root / form, form=form))
        for form in ("model", "json")
    }


@pytest.fixture(params=["model", "json"])
def tokenizer(request, made) -> GemmaTokenizer:
    return made[request.param]


def test_both_files_give_the_same_ids(made):
    texts = [
        *gemma_tiny.TEXTS,
        "",
        " ",
        "unseen ŵörds 1234",
        "<bos>a<image><loc0001> b",
    ]
    for text in texts:
        ids = [made[form].encode(text) for form in ("model", "json")]
        assert ids[0] == ids[1], text
    model, read = made["model"], made["json"]
    assert model.vocab_size == read.vocab_size
    for name in ("bos_id", "eos_id", "pad_id", "image_id"):
        assert getattr(model, name) == getattr(read, name)
    assert (read.pad_id, read.eos_id, read.bos_id) == (0, 1, 2)
    assert read.image_id == read.vocab_size - 1


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\0"))
)
def test_any_text_reads_back(made, text):
    for tokenizer in made.values():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_one_id_and_can_be_left_out(tokenizer):
    text = "<image><image><bos>detect cube\n<loc0000><seg000> cube<eos>"
    ids = tokenizer.encode(text)
    assert ids[:3] == [tokenizer.image_id, tokenizer.image_id, tokenizer.bos_id]
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == text
    # Places and outlines are part of an answer.
    kept = "detect cube\n<loc0000><seg000> cube"
    assert tokenizer.decode(np.array(ids), skip_special=True) == kept
    assert tokenizer.piece(tokenizer.image_id) == "<image>"
    assert tokenizer.encode("<loc0001>") == [tokenizer.token_id("<loc0001>")]


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
    assert right[right_mask].tolist() == ids[mask].tolist()
    with pytest.raises(UserError, match="may have 3 tokens"):
        tokenizer.encode_batch(texts, 3)


def _rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("form", ["model", "json"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: _vocabulary(f).unlink(), "has neither"),
        (lambda f: _vocabulary(f).write_text("{"), "must be readable"),
        (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "has a list"),
        (
            lambda f: _rewrite(
                f / "tokenizer_config.json", lambda c: c.update(eos_token="<eoss>")
            ),
            "did you mean '<eos>'",
        ),
        (
            lambda f: _rewrite(
                f / "tokenizer_config.json",
                lambda c: c["added_tokens_decoder"].update({"7": {"content": "<bos>"}}),
            ),
            "<bos> is",
        ),
    ],
)
def test_wrong_files_are_refused(tmp_path, form, spoil, said):
    folder = gemma_tiny.write_folder(tmp_path / "folder", form=form)
    spoil(folder)
    with pytest.raises(UserError) as caught:
        GemmaTokenizer(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def _vocabulary(folder: Path) -> Path:
    (found,) = [*folder.glob("tokenizer.model"), *folder.glob("tokenizer.json")]
    return found
