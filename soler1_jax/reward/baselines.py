"""Rewarders without a model: the truth as upper bound, and two controls.

`oracle` repeats the true progress, `random` draws it, `time` lets it rise with the
number of the query. A learned rewarder is worth something only above the controls.
Letters: B episodes. Progress in percent.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.rewarder import (
    MAX_PROGRESS,
    Rewarder,
    TaskText,
    Verdict,
    Views,
    certain_verdict,
)


def oracle() -> Rewarder:
    """Progress is the true one; the only rewarder that is handed it."""

    def score(
        params: Any, state: jax.Array, views: Views, key: jax.Array, truth: jax.Array
    ) -> tuple[jax.Array, Verdict]:
        return state + 1, certain_verdict(truth)

    return _blind_to_pixels("oracle", score, uses_truth=True)


def random() -> Rewarder:
    """Progress is uniform in [-100, 100], drawn anew at each query."""

    def score(
        params: Any, state: jax.Array, views: Views, key: jax.Array, truth: None
    ) -> tuple[jax.Array, Verdict]:
        drawn = jax.random.uniform(
            key, state.shape, minval=-MAX_PROGRESS, maxval=MAX_PROGRESS
        )
        return state + 1, certain_verdict(drawn)

    return _blind_to_pixels("random", score)


def time(queries: int = 8) -> Rewarder:
    """Progress rises linearly and reaches 100 at query number `queries`."""

    def score(
        params: Any, state: jax.Array, views: Views, key: jax.Array, truth: None
    ) -> tuple[jax.Array, Verdict]:
        state = state + 1
        return state, certain_verdict(MAX_PROGRESS * state / queries)

    return _blind_to_pixels("time", score)


def _blind_to_pixels(name: str, score: Any, *, uses_truth: bool = False) -> Rewarder:
    """A rewarder whose state is the number of queries so far, int32 [B]."""

    def start(params: Any, views: Views, task: TaskText, key: jax.Array) -> jax.Array:
        return jnp.zeros(task.ids.shape[0], jnp.int32)

    return Rewarder(
        params={},
        name=name,
        views=(),
        image_size=0,
        uses_truth=uses_truth,
        start=start,
        score=score,
        prepare=_no_words,
        decode=lambda tokens: "",
    )


def _no_words(sentences: list[str]) -> TaskText:
    shape = (len(sentences), 1)
    return TaskText(np.zeros(shape, np.int32), np.zeros(shape, bool))
