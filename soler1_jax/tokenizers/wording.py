"""The words with which a released rewarder is asked, and the tags of its answer.

The sentences belong to the checkpoint, not to this project: they are data, a small JSON
file beside the weights.

    {
      "templates": {"external_and_wrist": "... {task} ... {previous} ...", ...},
      "system": "...",
      "answer_tags": ["<answer>", "</answer>"],
      "thought_tags": ["<think>", "</think>"]
    }

A template is named after the views in the picture: `external_and_wrist`, `external` or
`wrist`; with `_from_zero` behind it if the previous progress is not told. At least one is
needed, the other fields may be left out. A file with the field `readout` is for models
that are asked without an answer in words, see `readout_wording`.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.tokenizers.qwen import read_json
from soler1_jax.tokenizers.readout_wording import (
    ReadoutWording,
    parse_readout_wording,
)

WORDING = "soler1_prompt.json"
VIEWS = ("external_and_wrist", "external", "wrist")
FROM_ZERO = "_from_zero"
TEMPLATES = (*VIEWS, *(view + FROM_ZERO for view in VIEWS))
_PLACE = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wording:
    """What a rewarder was trained to be asked.

    Attributes:
      templates: one of `TEMPLATES` -> the question, with `{task}` for the sentence and
        `{previous}` for the progress in percent that was stated last.
      system: the system message; None for none.
      answer_tags: around the progress in the answer.
      thought_tags: around the thought; None if nothing marks it.
    """

    templates: Mapping[str, str]
    system: str | None = None
    answer_tags: tuple[str, str] = ("<answer>", "</answer>")
    thought_tags: tuple[str, str] | None = None

    def question(self, views: str, task: str, previous: str | None = None) -> str:
        """Writes a question.

        Args:
          views: one of `VIEWS`.
          task: the sentence.
          previous: progress in percent as it was stated last; None to hide it.

        Raises:
          UserError: the rewarder has no template for this.
        """
        name = views if previous is not None else views + FROM_ZERO
        if name not in self.templates:
            raise UserError(
                f"this rewarder is asked as {', '.join(sorted(self.templates))}; got "
                f"{name}; choose one of these, or add its template to {WORDING}"
            )
        words = {"task": task, "previous": previous}
        return _PLACE.sub(lambda m: words[m.group(1)], self.templates[name])

    def to_json(self) -> dict[str, Any]:
        """The contents of the file."""
        return dataclasses.asdict(self)


AnyWording = Wording | ReadoutWording


def read_wording(path: Path) -> AnyWording:
    """Reads a file of words.

    Raises:
      UserError: it is missing or not JSON, or its fields are not as described above.
    """
    data = read_json(path)
    if "readout" in data:
        return parse_readout_wording(data, path)
    fields = [field.name for field in dataclasses.fields(Wording)]
    for key in data:
        if key not in fields:
            raise UserError(
                f"a prompt file has the fields {', '.join(fields)}; {path} has {key!r}"
                f"{nearest_hint(key, fields)}"
            )
    system = data.get("system")
    if system is not None and not isinstance(system, str):
        raise UserError(f"system is a text or null; {path} has {system!r}; change it")
    values: dict[str, Any] = {"templates": _templates(data, path), "system": system}
    for key in ("answer_tags", "thought_tags"):
        if data.get(key) is not None:
            values[key] = _tags(key, data[key], path)
    return Wording(**values)


def wording_bytes(wording: AnyWording) -> bytes:
    """The file that `read_wording` reads."""
    text = json.dumps(wording.to_json(), indent=1, ensure_ascii=False)
    return (text + "\n").encode()


def _templates(data: Mapping[str, Any], path: Path) -> dict[str, str]:
    found = data.get("templates")
    if not isinstance(found, dict) or not found:
        raise UserError(
            f"a prompt file has templates, an object of texts; {path} has "
            f"{'none' if not found else type(found).__name__}; add "
            f"one or more of {', '.join(TEMPLATES)}"
        )
    for name, template in found.items():
        if name not in TEMPLATES:
            raise UserError(
                f"a template is named after its views; {path} has {name!r}"
                f"{nearest_hint(name, TEMPLATES)}"
            )
        if not isinstance(template, str):
            raise UserError(
                f"a template is a text; {name} in {path} is a "
                f"{type(template).__name__}; change it"
            )
        wanted = {"task"} if name.endswith(FROM_ZERO) else {"task", "previous"}
        places = set(_PLACE.findall(template))
        if places != wanted:
            raise UserError(
                f"template {name} holds {_braced(wanted)}; the one in {path} holds "
                f"{_braced(places) or 'neither'}; change it"
            )
    return dict(found)


def _tags(key: str, value: Any, path: Path) -> tuple[str, str]:
    pair = isinstance(value, list) and len(value) == 2
    if not pair or not all(isinstance(tag, str) and tag for tag in value):
        raise UserError(
            f"{key} are two texts, the opening and the closing one; {path} has "
            f"{value!r}; change it"
        )
    return value[0], value[1]


def _braced(names: set[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names, reverse=True))
