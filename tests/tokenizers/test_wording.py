"""The words of a rewarder: written as they were given, and refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.wording import read_wording, wording_bytes

GOOD: dict[str, Any] = {
    "templates": {
        "external": "Do {task}. It was {previous}%. {task}?",
        "wrist_from_zero": "Do {task}. { } {} {{previous",
    },
    "system": "You see.",
    "answer_tags": ["<a>", "</a>"],
    "thought_tags": None,
}


def _write(folder: Path, data: Any) -> Path:
    path = folder / "words.json"
    path.write_text(json.dumps(data))
    return path


def test_questions(tmp_path: Path) -> None:
    wording = read_wording(_write(tmp_path, GOOD))
    assert wording.answer_tags == ("<a>", "</a>") and wording.thought_tags is None
    # What a sentence holds is not filled in again.
    asked = wording.question("external", "lift {previous}", "-5")
    assert asked == "Do lift {previous}. It was -5%. lift {previous}?"
    assert wording.question("wrist", "x") == "Do x. { } {} {{previous"
    with pytest.raises(UserError, match="got external_from_zero"):
        wording.question("external", "x")


def test_a_file_comes_back(tmp_path: Path) -> None:
    wording = read_wording(_write(tmp_path, GOOD))
    (tmp_path / "again.json").write_bytes(wording_bytes(wording))
    assert read_wording(tmp_path / "again.json") == wording


def test_tags_have_the_papers_values(tmp_path: Path) -> None:
    wording = read_wording(_write(tmp_path, {"templates": GOOD["templates"]}))
    assert wording.answer_tags == ("<answer>", "</answer>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "x"}, "has 'template'; did you mean 'templates'"),
        ({"templates": {}}, "has none; add one"),
        ({"templates": ["x"]}, "has list; add one"),
        ({"templates": {"externl": "{task}"}}, "has 'externl'; did you mean"),
        ({"templates": {"external": 3}}, "external in .* is a int"),
        (
            {"templates": {"external": "{task}"}},
            r"holds \{task\} and \{previous\}; the",
        ),
        ({"templates": {"wrist_from_zero": "x"}}, r"holds \{task\}; .* holds neither"),
        ({"templates": {"external": "{task}{previous}{goal}"}}, r"and \{goal\}"),
        ({"system": 3}, "system is a text or null"),
        ({"answer_tags": ["<a>"]}, "answer_tags are two texts"),
        ({"thought_tags": ["", "x"]}, "thought_tags are two texts"),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_wording(_write(tmp_path, GOOD | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        {"readout": "heads", "question": "{task}?"},
        {
            "readout": "heads",
            "question": "{task}?",
            "preference": "{task}: {first} or {second}?",
        },
        {
            "readout": "likelihood",
            "question": "Is {task} done? It is",
            "answer": " True",
            "closed": True,
        },
    ],
)
def test_words_of_read_outs_are_read_and_written(words, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(words))
    found = read_wording(path)
    assert found.ask("lift {it}") == words["question"].replace("{task}", "lift {it}")
    path.write_bytes(wording_bytes(found))
    assert json.loads(path.read_text()) == words and read_wording(path) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"readout": "head", "question": "{task}"}, "heads or likelihood"),
        ({"readout": "heads"}, "question"),
        ({"readout": "heads", "question": "lift"}, "{task} once"),
        ({"readout": "heads", "question": "{task} {task}"}, "{task} once"),
        ({"readout": "heads", "question": "{task}", "answer": "a"}, "'answer'"),
        ({"readout": "heads", "question": "{task}", "preference": "{task}"}, "first"),
        ({"readout": "likelihood", "question": "{task}", "answer": ""}, "answer"),
        ({"readout": "likelihood", "question": "{task}", "closed": 1}, "closed"),
    ],
)
def test_wrong_words_of_read_outs_are_one_clear_error(words, message, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps(words))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_wording(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
