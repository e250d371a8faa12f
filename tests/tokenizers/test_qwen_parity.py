"""Qwen's whole vocabulary and chat rendering against transformers and tiktoken."""

import importlib.util
import random
import unicodedata
from pathlib import Path

import pytest
import qwen_corpus as corpus
import qwen_vocab

from soler1_jax.tokenizers.chat import ChatTemplate
from soler1_jax.tokenizers.qwen import QwenTokenizer

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    pytest.importorskip("transformers")
    if importlib.util.find_spec("dashscope") is None:
        pytest.skip("dashscope is not installed")
    return qwen_vocab.read_ranks()


@pytest.fixture(scope="module")
def folder(ranks, tmp_path_factory) -> Path:
    content = qwen_vocab.tokenizer_json(ranks)
    return qwen_vocab.write_folder(tmp_path_factory.mktemp("qwen"), content)


@pytest.fixture(scope="module")
def tokenizer(folder) -> QwenTokenizer:
    return QwenTokenizer(folder)


def _texts() -> list[str]:
    """The corpus, this project's sources, and a thousand random mixtures."""
    root = Path(__file__).parents[2]
    sources = [p.read_text() for p in sorted(root.glob("soler1_jax/data/*.py"))]
    dice = random.Random(0)
    letters = "".join(corpus.TEXTS)
    random_texts = []
    for _ in range(1000):
        parts = []
        for _ in range(dice.randint(1, 12)):
            start = dice.randrange(len(letters))
            parts.append(letters[start : start + dice.randint(1, 9)])
            if dice.random() < 0.3:
                parts.append(
                    chr(dice.choice([*range(0xD800), *range(0xE000, 0x3FFFF)]))
                )
        random_texts.append("".join(parts))
    return [*corpus.TEXTS, *sources, *random_texts]


def test_ids_of_the_released_vocabulary(tokenizer):
    names = [*qwen_vocab.SPECIAL, *qwen_vocab.ADDED]
    assert [tokenizer.special_ids[n] for n in names] == list(range(151643, 151669))
    assert tokenizer.vocab_size == 151669
    assert (tokenizer.image_pad_id, tokenizer.video_pad_id) == (151655, 151656)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (151645, 151643)


def test_every_text_has_the_ids_of_transformers(folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    reference = transformers.Qwen2Tokenizer.from_pretrained(folder)
    compared = 0
    for text in _texts():
        wanted = reference(text)["input_ids"]
        assert tokenizer.encode(text) == wanted, repr(text)
        for skip in (False, True):
            again = reference.decode(wanted, skip_special_tokens=skip)
            assert tokenizer.decode(wanted, skip_special=skip) == again
        compared += len(wanted)
    assert compared > 20000


def test_every_text_has_the_ids_of_tiktoken(ranks, tokenizer):
    tiktoken = pytest.importorskip("tiktoken")
    reference = tiktoken.Encoding(
        "qwen",
        pat_str=qwen_vocab.SPLIT,
        mergeable_ranks=ranks,
        special_tokens=dict(tokenizer.special_ids),
    )
    for text in _texts():
        normal = unicodedata.normalize("NFC", text)
        wanted = reference.encode(normal, allowed_special="all")
        assert tokenizer.encode(text) == wanted, repr(text)


@pytest.mark.parametrize("name", corpus.CONVERSATIONS)
def test_templates_render_as_in_transformers(folder, name):
    transformers = pytest.importorskip("transformers")
    reference = transformers.Qwen2Tokenizer.from_pretrained(folder)
    template = ChatTemplate()
    for generate in (False, True):
        for number in (False, True):
            wanted = reference.apply_chat_template(
                corpus.CONVERSATIONS[name],
                chat_template=template.source,
                tokenize=False,
                add_generation_prompt=generate,
                add_vision_id=number,
            )
            found = template.render(
                corpus.CONVERSATIONS[name],
                add_generation_prompt=generate,
                add_vision_id=number,
            )
            assert found == wanted
