"""Conversations to prompts: as the checkpoint's own template writes them."""

import json
from pathlib import Path

import pytest
import qwen_corpus as corpus

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers import chat

PROMPTS = json.loads((Path(__file__).parents[1] / "golden/qwen_text.json").read_text())[
    "prompts"
]
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("name", corpus.CONVERSATIONS)
@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("number", [False, True])
def test_default_writes_what_the_checkpoint_does(name, generate, number):
    prompt = chat.ChatTemplate().render(
        corpus.CONVERSATIONS[name],
        add_generation_prompt=generate,
        add_vision_id=number,
    )
    assert prompt == PROMPTS[name][f"{generate:d}{number:d}"]


@pytest.mark.parametrize(
    "part", [{"image": 0}, {"image_url": "a"}, {"type": "image_url", "image_url": "a"}]
)
def test_images_may_be_told_in_other_ways(part):
    messages = [{"role": "user", "content": [part, {"text": "see"}]}]
    prompt = chat.ChatTemplate().render(messages)
    assert prompt == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>see<|im_end|>\n"
    )


def test_template_is_looked_for_where_the_reference_does(tmp_path):
    def found():
        return chat.read_chat_template(tmp_path).render([USER])

    assert found() == "<|im_start|>user\nhi<|im_end|>\n"
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": 1}]
    config.write_text(json.dumps({"chat_template": "tokenizer"}))
    assert found() == "tokenizer"
    named[1]["template"] = "named"
    config.write_text(json.dumps({"chat_template": named}))
    assert found() == "named"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    assert found() == "hi"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "legacy"}')
    assert found() == "legacy"
    shared = tmp_path / "processor_config.json"
    shared.write_text('{"processor_class": "Qwen3VLProcessor"}')
    assert found() == "legacy"
    shared.write_text('{"chat_template": "shared"}')
    assert found() == "shared"


def test_templates_of_checkpoints_find_what_they_use():
    source = (
        "{%- for tool in tools %}\n    {{- tool | tojson }}\n{%- endfor %}\n"
        "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{- m.content }}{% endfor %}"
    )
    tools = [{"name": "a<b", "text": "é"}]
    prompt = chat.ChatTemplate(source).render([USER, USER], tools=tools)
    assert prompt == '{"name": "a<b", "text": "é"}hi'


def test_templates_cannot_reach_out():
    for source in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
    ):
        with pytest.raises(UserError, match="must suit the chat template"):
            chat.ChatTemplate(source).render([USER])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "got none"),
        ([{"content": "hi"}], "got the keys content"),
        ([{"role": "user", "content": None}], "has a role and a content"),
        ([{"role": "user", "content": ["hi"]}], "a part of a message has a type"),
        ([{"role": "user", "content": [{"type": "vdeo"}]}], "did you mean 'video'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a text part holds"),
        ([{"role": "tool", "content": "4"}], "knows system, user and assistant"),
        ([USER, {"role": "system", "content": "x"}], "system message comes first"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "only the user"),
    ],
)
def test_wrong_messages_are_refused(messages, said):
    with pytest.raises(UserError) as caught:
        chat.ChatTemplate().render(messages)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_templates_are_refused(tmp_path):
    with pytest.raises(UserError, match="is Jinja"):
        chat.ChatTemplate("{% if %}")
    (tmp_path / "chat_template.json").write_text('{"chat_template": 3}')
    with pytest.raises(UserError, match="has int"):
        chat.read_chat_template(tmp_path)
    (tmp_path / "chat_template.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="is text"):
        chat.read_chat_template(tmp_path)
