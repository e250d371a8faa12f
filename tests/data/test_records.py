"""A record survives the disk unchanged, with and without the wrist view."""

import dataclasses

import numpy as np
import pytest

from soler1_jax.data import records


@pytest.mark.parametrize("wrist", [True, False])
def test_a_record_reads_back_as_written(make_episode, wrist):
    episode = make_episode(3, wrist)
    row = records.serialize(episode)
    spec = records.features(3, 16, wrist)
    again = records.from_row(spec.deserialize_example_np(row))
    for field in dataclasses.fields(records.Episode):
        before, after = getattr(episode, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype
        else:
            assert before == after, field.name


def test_equal_episodes_give_equal_bytes(make_episode):
    assert records.serialize(make_episode(1)) == records.serialize(make_episode(1))
    assert records.serialize(make_episode(1)) != records.serialize(make_episode(2))


def test_columns_of_the_facts_have_names(make_episode):
    episode = make_episode()
    column = records.FACTS.index("named_x")
    np.testing.assert_array_equal(
        episode.position("named"), episode.facts[:, column : column + 3]
    )
    np.testing.assert_array_equal(
        episode.progress, episode.facts[:, records.FACTS.index("progress")]
    )
