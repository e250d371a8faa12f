"""How prompts and completions are written, for training and for use alike.

A progress query's prompt is the task sentence, with the previous progress when
it is let in; its completion is a thought and an answer of a sign and three
digits. A question's completion is a rationale and a short answer in words:

    lift the red cube                     <think>...</think><answer>+040</answer>
    lift the red cube before +020         <think>...</think><answer>-005</answer>
    which is nearer to the gripper ?      <think>...</think><answer>the ball</answer>

Progress is in percent, an integer in [-100, 100] (paper section 3.4).
"""

from __future__ import annotations

import re

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"

_COMPLETION = re.compile(
    rf"^\s*{THINK}(?P<thought>.*?){END_THINK}\s*{ANSWER}(?P<answer>.*?){END_ANSWER}\s*$",
    re.DOTALL,
)
_NUMBER = re.compile(r"^\s*([+-])\s*(\d)\s*(\d)\s*(\d)\s*$")


def normalise(sentence: str) -> str:
    """Lower case, single spaces, no full stop at the end: the form models read."""
    return " ".join(sentence.lower().split()).rstrip(" .!")


def signed(progress: int) -> str:
    """Sign and three digits of a progress in percent: 40 -> "+040"."""
    return f"{int(progress):+04d}"


def progress_prompt(sentence: str, previous: int | None = None) -> str:
    """The prompt of a progress query.

    Args:
      sentence: the task in words.
      previous: progress of the previous query in percent, or None to hide it.
    """
    prompt = normalise(sentence)
    return prompt if previous is None else f"{prompt} before {signed(previous)}"


def completion(thought: str, answer: str) -> str:
    """The text a model must write: thought first, then the answer."""
    return f"{THINK} {thought.strip()} {END_THINK}{ANSWER}{answer}{END_ANSWER}"


def progress_completion(thought: str, progress: int) -> str:
    """Completion of a progress query; progress is an integer percent."""
    return completion(thought, signed(progress))


def split_completion(text: str) -> tuple[str, str] | None:
    """Thought and answer of a completion, or None if it has another form."""
    match = _COMPLETION.match(text)
    if match is None:
        return None
    return match["thought"].strip(), match["answer"].strip()


def parse_progress(text: str) -> int | None:
    """Progress in percent stated by a completion, or None if there is none."""
    parts = split_completion(text)
    match = _NUMBER.match(parts[1]) if parts else None
    if match is None:
        return None
    value = int("".join(match.groups()))
    return value if abs(value) <= 100 else None
