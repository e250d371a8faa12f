"""Rewards that can be verified: form, number, and the truth of what is claimed.

The first two are the paper's (section 6): up to 0.5 for a well-formed answer, and
1.5 exp(-|error| / tau) for its number. A number-only reward empties the thoughts, so
what a thought claims of the frames is compared with what the simulator measured.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from soler1_jax.common.errors import require_non_negative, require_positive
from soler1_jax.data import text
from soler1_jax.synthesis import claims

FORM_THOUGHT, FORM_NUMBER = 0.25, 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the parts.

    Attributes:
      accuracy: reward of an exact number.
      tau: error in percent at which that reward has fallen to 1/e.
      claims: reward of a thought that states all required claims and nothing false.
    """

    accuracy: float = 1.5
    tau: float = 10.0
    claims: float = 0.5

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("--tau", self.tau)
        require_non_negative("--accuracy", self.accuracy)
        require_non_negative("--claims", self.claims)


@dataclasses.dataclass(frozen=True)
class Graded:
    """Rewards of N completions; each float32 [N]."""

    total: np.ndarray
    form: np.ndarray
    accuracy: np.ndarray
    claims: np.ndarray


def form(completion: str) -> float:
    """0.25 for one thought and one answer in their tags, 0.25 more for a number."""
    if text.split_completion(completion) is None:
        return 0.0
    number = text.parse_progress(completion) is not None
    return FORM_THOUGHT + (FORM_NUMBER if number else 0.0)


def accuracy(completion: str, progress: float, config: RewardConfig) -> float:
    """accuracy * exp(-|stated - true| / tau); 0 if no number is stated."""
    stated = text.parse_progress(completion)
    if stated is None:
        return 0.0
    return config.accuracy * float(np.exp(-abs(stated - progress) / config.tau))


def truth(completion: str, facts: Mapping[str, str], config: RewardConfig) -> float:
    """Reward of the thought's claims: stated rightly less stated wrongly, of all.

    A thought that claims nothing earns 0.
    """
    parts = text.split_completion(completion)
    return config.claims * claims.score(parts[0], facts) if parts else 0.0


def grade(
    completions: Sequence[str],
    progress: Sequence[float],
    facts: Sequence[Mapping[str, str]],
    config: RewardConfig,
) -> Graded:
    """Rewards completions of progress queries.

    Args:
      completions: N texts as the model wrote them.
      progress: N true values in percent.
      facts: N sets of true claims (synthesis/claims.py `measure`).
      config: weights.
    """
    parts = np.array(
        [
            (form(c), accuracy(c, p, config), truth(c, f, config))
            for c, p, f in zip(completions, progress, facts, strict=True)
        ],
        np.float32,
    ).reshape(-1, 3)
    return Graded(parts.sum(axis=1), *parts.T)
