"""Success of a noise-free policy, true and as the rewarder perceives it.

True success is transient: the goal was met at any control step. Perceived success is
the mean over episodes of the highest predicted progress, as a fraction
(arXiv 2603.28730, section 5). Letters: Q queries, B episodes, R runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.rl.types import EpisodeRecord


class Evaluation(NamedTuple):
    """Means over the evaluated episodes of one run, as fractions."""

    true_success: float
    perceived_success: float  # in [-1, 1]
    true_progress: float  # mean of the highest true progress
    error: float  # mean |predicted - true| over all queries, percent
    parsed: float
    episodes: int

    def as_dict(self) -> dict[str, float]:
        """Rounded, for JSON."""
        return {k: round(float(v), 4) for k, v in self._asdict().items()}


def summary(record: EpisodeRecord) -> dict[str, jax.Array]:
    """Scalars of B episodes, float32 [] each; traceable."""
    predicted, true = record.predicted[1:], record.true[1:]
    return {
        "true_success": jnp.mean(record.success),
        "perceived_success": jnp.mean(jnp.max(predicted, axis=0)) / 100.0,
        "true_progress": jnp.mean(jnp.max(true, axis=0)) / 100.0,
        "error": jnp.mean(jnp.abs(predicted - true)),
        "parsed": jnp.mean(record.parsed.astype(jnp.float32)),
    }


def quiet_summary(record: EpisodeRecord, quiet: int) -> dict[str, jax.Array]:
    """Success of the first `quiet` worlds, which act without noise; traceable."""
    predicted = record.predicted[1:, :quiet]
    return {
        "quiet_success": jnp.mean(record.success[:quiet]),
        "quiet_perceived": jnp.mean(jnp.max(predicted, axis=0)) / 100.0,
    }


def combine(parts: Sequence[dict[str, np.ndarray]], worlds: int) -> list[Evaluation]:
    """Averages summaries [R] of equally many episodes each into one a run."""
    runs = len(parts[0]["true_success"])
    episodes = worlds * len(parts)
    result = []
    for run in range(runs):
        means = {
            name: float(np.mean([part[name][run] for part in parts]))
            for name in parts[0]
        }
        result.append(Evaluation(**means, episodes=episodes))
    return result
