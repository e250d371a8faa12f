"""The words with which a rewarder without a written answer is asked.

They are data like those of `wording`, in the same file beside the weights:

    {"readout": "heads", "question": "... {task} ...",
     "preference": "... {task} ... {first} ... {second} ..."}

    {"readout": "likelihood", "question": "... {task} ...", "answer": " True",
     "closed": false}

With heads, the question stands before the frames; `preference`, which may be left out,
places two clips among its words and says by its own tokens where they part and where the
preference is read. With likelihood, the question stands behind the video, and what is
read is how likely the last token of the answer is after it. `closed` is whether the user's
turn ends there and the assistant answers; else the sentence just goes on.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from soler1_jax.common.errors import UserError, nearest_hint

READOUTS = ("heads", "likelihood")
_PLACE = re.compile(r"\{(\w+)\}")
_FIELDS = {
    "heads": ("readout", "question", "preference"),
    "likelihood": ("readout", "question", "answer", "closed"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadoutWording:
    """See the module docstring for the fields."""

    readout: Literal["heads", "likelihood"]
    question: str
    preference: str | None = None
    answer: str = " True"
    closed: bool = False

    def ask(self, task: str) -> str:
        """The question about a task."""
        return self.question.replace("{task}", task)

    def to_json(self) -> dict[str, Any]:
        """The contents of the file."""
        fields = dataclasses.asdict(self)
        kept = {name: fields[name] for name in _FIELDS[self.readout]}
        return {name: value for name, value in kept.items() if value is not None}


def parse_readout_wording(data: Mapping[str, Any], path: Path) -> ReadoutWording:
    """Checks the contents of a file; `path` is named in errors.

    Raises:
      UserError: its fields are not as described above.
    """
    kind = data["readout"]
    if kind not in READOUTS:
        raise UserError(
            f"readout is {' or '.join(READOUTS)}; {path} has {kind!r}; change it"
        )
    for key in data:
        if key not in _FIELDS[kind]:
            raise UserError(
                f"a prompt file for {kind} has the fields {', '.join(_FIELDS[kind])}; "
                f"{path} has {key!r}{nearest_hint(key, _FIELDS[kind])}"
            )
    _require_places("question", data.get("question"), {"task"}, path)
    if data.get("preference") is not None:
        places = {"task", "first", "second"}
        _require_places("preference", data["preference"], places, path)
    answer, closed = data.get("answer", " True"), data.get("closed", False)
    if not isinstance(answer, str) or not answer:
        raise UserError(f"answer is a text; {path} has {answer!r}; change it")
    if not isinstance(closed, bool):
        raise UserError(f"closed is true or false; {path} has {closed!r}; change it")
    return ReadoutWording(**data)


def _require_places(name: str, text: Any, wanted: set[str], path: Path) -> None:
    found = _PLACE.findall(text) if isinstance(text, str) else None
    if found is None or sorted(found) != sorted(wanted):
        places = " and ".join(f"{{{place}}}" for place in sorted(wanted))
        raise UserError(
            f"{name} is a text that holds {places} once; {path} has {text!r:.60}; "
            "change it"
        )
