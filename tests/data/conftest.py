"""A small made-up episode, shared by the tests of records, data sets and batches."""

import numpy as np
import pytest

from soler1_jax.data import records, text


@pytest.fixture
def make_episode():
    """Returns a maker of episodes of 3 frames of 16 x 16 pixels."""

    def make(seed: int = 0, wrist: bool = True, frames: int = 3, size: int = 16):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (2, frames, size, size, 3), dtype=np.uint8)
        queries = [
            records.Query(
                source="progress",
                first=0,
                prev=cur - 1,
                cur=cur,
                prompt="lift the red cube",
                completion=text.progress_completion("gripper nearer", 10 * cur),
                progress=10 * cur,
                previous=10 * (cur - 1),
                claims={"motion": "nearer", "trend": "up"},
            )
            for cur in range(1, frames)
        ]
        queries.append(
            records.Query(
                source="spatial",
                first=-1,
                prev=-1,
                cur=1,
                prompt="which colour is the cube ?",
                completion=text.completion("it looks red", "red"),
                progress=0,
                previous=0,
                claims={"answer": "red"},
            )
        )
        return records.Episode(
            name=f"episode-{seed}",
            task="lift-red-cube",
            sentence="Lift the red cube.",
            family="lift",
            verb="lift",
            noun="cube",
            split="train",
            level=seed % 7,
            stride=5,
            external=pixels[0],
            wrist=pixels[1] if wrist else None,
            semantic=rng.integers(0, 8, (frames, size, size), dtype=np.uint8),
            wrist_semantic=rng.integers(0, 8, (frames, size, size), dtype=np.uint8)
            if wrist
            else None,
            names=("", "gripper", "red cube", "", "plate", "drawer", "", ""),
            named=2,
            colors=rng.integers(0, 7, 8, dtype=np.int32),
            shapes=rng.integers(0, 4, 8, dtype=np.int32),
            facts=rng.normal(size=(frames, len(records.FACTS))).astype(np.float32),
            queries=tuple(queries),
        )

    return make


class WordTokenizer:
    """One id per distinct word, as a stand-in for the trained tokenizer."""

    eos_id = 3

    def encode(self, text: str) -> list[int]:
        return [4 + sum(word.encode()) % 400 for word in text.split()]


@pytest.fixture
def tokenizer():
    """A tokenizer that needs no training."""
    return WordTokenizer()
