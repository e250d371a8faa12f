"""Batches: fixed shapes, an order set by the seed, and labels that fit the pixels."""

import dataclasses

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import batches, records

CONFIG = batches.BatchConfig(
    episodes=2, queries=3, wrist_patch=8, mix={"progress": 1, "spatial": 1}
)


@pytest.fixture
def episodes(make_episode):
    return [make_episode(i) for i in range(5)]


def test_shapes_are_those_of_the_settings(episodes, tokenizer):
    batch = batches.dataset(episodes, tokenizer, CONFIG, seed=0)[0]
    expected = {
        "frames": (2, 3, 16, 16, 3),
        "wrist": (2, 3, 16, 16, 3),
        "classes": (2, 3, 4 + 4, 8),
        "colors": (2, 8),
        "shapes": (2, 8),
        "name_ids": (2, 8, 6),
        "name_mask": (2, 8, 6),
        "named": (2,),
        "facts": (2, 3, len(records.FACTS)),
        "prompt_ids": (2, 3, 24),
        "prompt_mask": (2, 3, 24),
        "completion_ids": (2, 3, 40),
        "completion_mask": (2, 3, 40),
        "shown": (2, 3, 3),
        "shown_mask": (2, 3, 3),
        "progress": (2, 3),
        "previous": (2, 3),
        "source": (2, 3),
        "claims": (2, 3, 8),
    }
    assert {k: v.shape for k, v in batch.items()} == expected
    assert batch["frames"].dtype == np.uint8
    assert batch["classes"].dtype == np.float32


def test_patches_of_the_wrist_view_follow_those_of_the_external_one(
    make_episode, tokenizer
):
    episode = make_episode(0)
    row = batches.encode_episode(episode, tokenizer, CONFIG, np.random.default_rng(0))
    both = (episode.semantic, episode.wrist_semantic)
    shares = [batches.patch_shares(semantic, 8) for semantic in both]
    np.testing.assert_array_equal(row["classes"], np.concatenate(shares, axis=1))
    blind = dataclasses.replace(CONFIG, wrist_patch=0)
    row = batches.encode_episode(episode, tokenizer, blind, np.random.default_rng(0))
    assert row["classes"].shape[1] == 4 and "wrist" not in row
    with pytest.raises(UserError, match="no-wrist"):
        batches.encode_episode(
            make_episode(0, wrist=False), tokenizer, CONFIG, np.random.default_rng(0)
        )


def test_the_seed_and_the_step_decide_the_batch(episodes, tokenizer):
    a, b = (batches.dataset(episodes, tokenizer, CONFIG, seed=7) for _ in range(2))
    other = batches.dataset(episodes, tokenizer, CONFIG, seed=8)
    for step in (0, 3, 11):
        for key, value in a[step].items():
            np.testing.assert_array_equal(value, b[step][key])
    assert any((a[s]["shown"] != other[s]["shown"]).any() for s in range(4))


def test_patch_shares_count_pixels():
    rng = np.random.default_rng(0)
    semantic = rng.integers(0, 8, (2, 16, 16), dtype=np.uint8)
    shares = batches.patch_shares(semantic, 4)
    assert shares.shape == (2, 16, 8)
    np.testing.assert_allclose(shares.sum(-1), 1.0)
    row, column = 2, 1
    tile = semantic[1, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
    for label in range(8):
        assert shares[1, row * 4 + column, label] == (tile == label).mean()


def test_sources_follow_the_mix(make_episode, tokenizer):
    episode = make_episode()
    only = dataclasses.replace(CONFIG, queries=1, mix={"spatial": 1.0})
    row = batches.encode_episode(episode, tokenizer, only, np.random.default_rng(0))
    assert row["source"].tolist() == [records.SOURCES.index("spatial")]
    assert row["shown_mask"].tolist() == [[False, False, True]]
    assert (row["claims"] == -1).all()


def test_claims_and_labels_come_through(make_episode, tokenizer):
    config = dataclasses.replace(CONFIG, queries=2, mix={"progress": 1.0})
    row = batches.encode_episode(
        make_episode(), tokenizer, config, np.random.default_rng(0)
    )
    assert sorted(row["progress"].tolist()) == [10.0, 20.0]
    np.testing.assert_array_equal(row["progress"], 10 * row["shown"][:, 2])
    assert batches.claims_of(row["claims"][0]) == {"motion": "nearer", "trend": "up"}
    last = row["completion_mask"].sum(1) - 1
    assert row["completion_ids"][np.arange(2), last].tolist() == [3, 3]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_previous_progress_is_hidden_by_default(make_episode, tokenizer, share):
    config = dataclasses.replace(CONFIG, previous=share, mix={"progress": 1.0})
    row = batches.encode_episode(
        make_episode(), tokenizer, config, np.random.default_rng(0)
    )
    assert set(row["prompt_mask"].sum(1)) == {6 if share else 4}


@pytest.mark.parametrize(
    "change",
    [{"mix": {"videos": 1.0}}, {"mix": {"progress": 0.0}}, {"queries": 0}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError):
        dataclasses.replace(CONFIG, **change)


def test_too_little_room_or_data_is_named(episodes, tokenizer):
    with pytest.raises(UserError, match="episodes"):
        batches.dataset(episodes[:1], tokenizer, CONFIG, seed=0)
    short = dataclasses.replace(CONFIG, completion_length=2)
    with pytest.raises(UserError, match="completion"):
        batches.encode_episode(episodes[0], tokenizer, short, np.random.default_rng(0))
