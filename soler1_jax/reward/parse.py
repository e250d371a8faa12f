"""What a rewarder wrote, as a thought and a number; on the host."""

from typing import NamedTuple

from soler1_jax.data import text


class Statement(NamedTuple):
    """One completion, read."""

    thought: str  # "" if there is none
    progress: int | None  # percent; None if no number in [-100, 100] is stated


def read(completion: str) -> Statement:
    """Splits a completion; never fails, whatever the text."""
    parts = text.split_completion(completion)
    thought = parts[0] if parts else ""
    return Statement(thought, text.parse_progress(completion))
