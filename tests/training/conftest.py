"""Small made-up batches, with the shapes and names of data/batches.py."""

import numpy as np
import pytest

from soler1_jax.data import records, source, text
from soler1_jax.data.records import CLAIMS, CLASSES, FACTS
from soler1_jax.tokenizers.sentencepiece import train_tokenizer

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
        "facts": 0.1 * rng.normal(size=(e, t, len(FACTS))).astype(np.float32),
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


def _episode(seed, frames=4, size=16):
    rng = np.random.default_rng(seed)
    thoughts = ("gripper nearer, progress up", "gripper farther, progress down")
    queries = [
        records.Query(
            source="progress",
            first=0,
            prev=cur - 1,
            cur=cur,
            prompt="lift the red cube",
            completion=text.progress_completion(thoughts[cur % 2], 20 * cur),
            progress=20 * cur,
            previous=20 * (cur - 1),
            claims={
                "motion": ("nearer", "farther")[cur % 2],
                "trend": ("up", "down")[cur % 2],
            },
        )
        for cur in range(1, frames)
    ]
    for kind in ("spatial", "temporal"):
        queries.append(
            records.Query(
                source=kind,
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
        sentence="lift the red cube",
        family="lift",
        verb="lift",
        noun="cube",
        split="train",
        level=seed % 7,
        stride=5,
        external=rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8),
        wrist=rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8),
        semantic=rng.integers(0, 8, (frames, size, size), dtype=np.uint8),
        wrist_semantic=rng.integers(0, 8, (frames, size, size), dtype=np.uint8),
        names=("", "gripper", "red cube", "", "plate", "drawer", "", ""),
        named=2,
        colors=rng.integers(0, 7, 8, dtype=np.int32),
        shapes=rng.integers(0, 4, 8, dtype=np.int32),
        facts=rng.normal(size=(frames, len(FACTS))).astype(np.float32),
        queries=tuple(queries),
    )


@pytest.fixture(scope="session")
def episodes():
    """Eight made-up episodes of four frames of 16 x 16 pixels."""
    return [_episode(seed) for seed in range(8)]


@pytest.fixture(scope="session")
def data_folder(episodes, tmp_path_factory):
    """The episodes as a data set, and a tokenizer that knows their words."""
    folder = tmp_path_factory.mktemp("data")
    source.write_shard(source.shard_path(folder, "train", 0, 1), episodes)
    source.write_metadata(folder, "train", records.features(4, 16), 1)
    texts = [t for q in episodes[0].queries for t in (q.prompt, q.completion)]
    texts += [n for n in episodes[0].names if n]
    train_tokenizer(texts, folder / "tokenizer.model", 200)
    return folder
