"""Conversations to prompt text: the chat template of a Qwen checkpoint.

A message is {"role": ..., "content": ...}; content is a text or a list of
{"type": "text", "text": ...}, {"type": "image"} and {"type": "video"}. A template is
Jinja and belongs to the checkpoint; it runs in a sandbox, since checkpoints come from
strangers. `DEFAULT_TEMPLATE` writes what Qwen3-VL was trained on, for folders without
one. An image or a video is left as one pad token between `<|vision_start|>` and
`<|vision_end|>`; `slots.expand_slots` makes as many of it as there are patches.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.tokenizers.qwen import read_json

Message = Mapping[str, Any]
PARTS = ("text", "image", "video")
# Other ways in which an image or video part may be told.
_PART_KEYS = {
    "text": "text",
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
}

DEFAULT_TEMPLATE = """\
{%- set seen = namespace(image=0, video=0) -%}
{%- macro slot(kind, label, number) -%}
  {%- if add_vision_id %}{{ label ~ " " ~ number ~ ": " }}{% endif -%}
  {{- "<|vision_start|><|" ~ kind ~ "_pad|><|vision_end|>" -}}
{%- endmacro -%}
{%- if tools -%}
  {{- raise_exception("the default template has no tools") -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role not in ("system", "user", "assistant") -%}
    {{- raise_exception("the default template knows system, user and assistant") -}}
  {%- elif message.role == "system" and not loop.first -%}
    {{- raise_exception("the system message comes first") -}}
  {%- endif -%}
  {{- "<|im_start|>" ~ message.role ~ "\\n" -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == "text" -%}
        {{- part.text -}}
      {%- elif message.role != "user" -%}
        {{- raise_exception("only the user shows images and videos") -}}
      {%- elif part.type == "image" -%}
        {%- set seen.image = seen.image + 1 -%}
        {{- slot("image", "Picture", seen.image) -}}
      {%- else -%}
        {%- set seen.video = seen.video + 1 -%}
        {{- slot("video", "Video", seen.video) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""


class ChatTemplate:
    """A compiled template.

    Attributes:
      source: its text.
    """

    def __init__(self, source: str = DEFAULT_TEMPLATE) -> None:
        """Compiles a template; UserError if it is not Jinja."""
        self.source = source
        # Line breaks after and blanks before a block are dropped: checkpoints'
        # templates are written for these two settings.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
        )
        environment.globals["raise_exception"] = _refuse
        # Jinja's own filter would write < and > as escapes.
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(
                f"a chat template is Jinja; this one is not ({error}); "
                "copy it from the checkpoint again"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        add_vision_id: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Writes a conversation.

        Args:
          messages: the turns, oldest first.
          add_generation_prompt: open the assistant's next turn at the end.
          add_vision_id: number the images and videos, if the template can.
          tools: JSON descriptions of functions, if the template can.

        Returns:
          The prompt, one pad token for each image and video.

        Raises:
          UserError: a message is not of the form above, or the template refuses it.
        """
        turns = [_checked(message) for message in messages]
        if not turns:
            raise UserError("a conversation has messages; got none; give one or more")
        try:
            return self._template.render(
                messages=turns,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                add_vision_id=add_vision_id,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(
                "a conversation must suit the chat template; this one does not "
                f"({error}); change the messages"
            ) from error


def read_chat_template(folder: str | Path) -> ChatTemplate:
    """Finds the template of a Hugging Face folder.

    In this order, as transformers does: `chat_template` in `processor_config.json`,
    `chat_template.json`, `chat_template.jinja`, `tokenizer_config.json`. The default
    one if there is none.

    Raises:
      UserError: a file is unreadable, or what it holds is no template.
    """
    folder = Path(folder)
    for name in ("processor_config.json", "chat_template.json"):
        source = read_json(folder / name, optional=True).get("chat_template")
        if source is not None:
            return _compiled(source, folder / name)
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return _compiled(path.read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"a chat template is text; {path} is not ({error}); copy it again"
            ) from error
    path = folder / "tokenizer_config.json"
    source = read_json(path, optional=True).get("chat_template")
    return ChatTemplate() if source is None else _compiled(source, path)


def _compiled(source: Any, path: Path) -> ChatTemplate:
    if isinstance(source, list):
        named = {e.get("name"): e.get("template") for e in source if type(e) is dict}
        source = named.get("default")
    if not isinstance(source, str) or not source.strip():
        raise UserError(
            f"chat_template is a Jinja text or a list with one named default; {path} "
            f"has {type(source).__name__}; copy it from the checkpoint again"
        )
    return ChatTemplate(source)


def _checked(message: Message) -> dict[str, Any]:
    """The message with the type of every part told."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or content is None:
        raise UserError(
            "a message has a role and a content; got the keys "
            f"{', '.join(sorted(message)) or 'none'}; give both"
        )
    if isinstance(content, str):
        return dict(message)
    return {**message, "content": [_checked_part(part) for part in content]}


def _checked_part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise UserError(
            f"a part of a message has a type; got {part!r:.60}; "
            'write {"type": "text", "text": ...}'
        )
    kind = part.get("type") or next((k for k in _PART_KEYS if k in part), "")
    if kind not in _PART_KEYS:
        raise UserError(
            f"a part is text, image or video; got {kind!r}{nearest_hint(kind, PARTS)}"
        )
    if kind == "text" and not isinstance(part.get("text"), str):
        raise UserError(
            f"a text part holds a text; got {part.get('text')!r:.60}; give a string"
        )
    return {**part, "type": _PART_KEYS[kind]}


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
