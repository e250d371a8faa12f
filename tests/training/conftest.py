"""Small made-up batches, with the shapes and names of data/batches.py."""

import numpy as np
import pytest

from soler1_jax.data.records import CLAIMS, CLASSES, FACTS

VOCAB = 40
ANSWER = 10


def _padded(rng, shape, length):
    ids = rng.integers(11, VOCAB, (*shape, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(length // 2, length + 1, (*shape, 1))
    return ids * mask, mask


def make_batch(seed=0, episodes=4, frames=3, queries=2, image=16, patch=4):
    """A random batch of data/batches.py's shapes."""
    rng = np.random.default_rng(seed)
    e, t, q, p = episodes, frames, queries, (image // patch) ** 2
    prompt_ids, prompt_mask = _padded(rng, (e, q), 6)
    completion_ids, completion_mask = _padded(rng, (e, q), 8)
    completion_ids[:, :, 2] = ANSWER
    name_ids, name_mask = _padded(rng, (e, len(CLASSES)), 3)
    name_mask[:, [0, 7]] = False
    return {
        "frames": rng.integers(0, 256, (e, t, image, image, 3)).astype(np.uint8),
        "classes": rng.dirichlet(np.ones(8), (e, t, p)).astype(np.float32),
        "colors": rng.integers(0, 7, (e, 8)).astype(np.int32),
        "shapes": rng.integers(0, 4, (e, 8)).astype(np.int32),
        "name_ids": name_ids,
        "name_mask": name_mask,
        "named": rng.integers(2, 7, e).astype(np.int32),
        "facts": rng.normal(size=(e, t, len(FACTS))).astype(np.float32),
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "shown": rng.integers(0, t, (e, q, 3)).astype(np.int32),
        "shown_mask": np.ones((e, q, 3), bool),
        "progress": rng.integers(-100, 101, (e, q)).astype(np.float32),
        "previous": rng.integers(-100, 101, (e, q)).astype(np.float32),
        "source": np.tile(np.arange(q, dtype=np.int32) % 2, (e, 1)),
        "claims": np.zeros((e, q, len(CLAIMS)), np.int32),
    }


@pytest.fixture
def batch():
    """See `make_batch`."""
    return make_batch()
