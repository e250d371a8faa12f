"""A made-up episode to show."""

import numpy as np
import pytest

from soler1_jax.viz.episodes import EpisodeView


@pytest.fixture
def make_view():
    """Returns a maker of episodes of T frames whose grey level tells the frame."""

    def make(count=9, **changes):
        frames = np.zeros((count, 16, 24, 3), np.uint8)
        frames += np.arange(count, dtype=np.uint8)[:, None, None, None] * 3
        values = {
            "frames": frames,
            "wrist": frames[:, :8, :8],
            "predicted": np.linspace(0, 80, count),
            "true": np.linspace(0, 100, count),
            "thoughts": ["", *(f"thought number {t}" for t in range(1, count))],
            "task": "lift the <red> cube",
            "success": True,
            "title": "one",
        }
        return EpisodeView(**{**values, **changes})

    return make
