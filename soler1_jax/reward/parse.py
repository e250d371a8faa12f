"""What a rewarder wrote, as a thought and a number; on the host."""

import re
from typing import NamedTuple

from soler1_jax.common.rewarder import MAX_PROGRESS
from soler1_jax.data import text

_THOUGHT = re.compile(rf"{text.THINK}(.*?){text.END_THINK}", re.DOTALL)
# As released rewarders write it: a number of any length, mostly with a percent sign.
_LOOSE = re.compile(rf"{text.ANSWER}\s*([+-]?\d+(?:\.\d+)?)\s*%?\s*</")


class Statement(NamedTuple):
    """One completion, read."""

    thought: str  # "" if there is none
    progress: int | None  # percent; None if no number in [-100, 100] is stated


def read(completion: str) -> Statement:
    """Splits a completion; never fails, whatever the text.

    Text without tags is a thought as a whole; one that breaks off inside its tags is
    none.
    """
    parts = text.split_completion(completion)
    thought = parts[0] if parts else _thought(completion)
    progress = text.parse_progress(completion)
    number = _LOOSE.search(completion)
    if progress is None and number and abs(float(number[1])) <= MAX_PROGRESS:
        progress = round(float(number[1]))
    return Statement(thought, progress)


def _thought(completion: str) -> str:
    inside = _THOUGHT.search(completion)
    if inside or text.THINK in completion:
        return inside[1].strip() if inside else ""
    return completion.split(text.ANSWER)[0].strip()
