"""Real rollouts: experts succeed, random ones do not, and keys decide everything."""

from collections import defaultdict

import jax
import numpy as np
import pytest

from soler1_jax.data.records import CLASSES, FACTS
from soler1_jax.envs.tasks import FAMILIES, TASKS
from soler1_jax.synthesis.mistakes import LEVELS
from soler1_jax.synthesis.rollout import Recorder

# Compiling physics and renderer takes minutes on two cores.
pytestmark = pytest.mark.slow
WORLDS_PER_FAMILY = 20


@pytest.fixture(scope="module")
def recorder():
    return Recorder(stride=5, frames=9, size=16, wrist=False)


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(0)
    chosen = [
        rng.choice(
            [i for i, t in enumerate(TASKS) if t.family == family], WORLDS_PER_FAMILY
        )
        for family in FAMILIES
    ]
    return np.concatenate(chosen).astype(np.int32)


def record(recorder, tasks, level, seed=0):
    levels = np.full(len(tasks), LEVELS.index(level), np.int32)
    nobody = np.zeros_like(levels)
    key = jax.random.key(seed)
    return recorder.record(key, tasks, levels, opposite(tasks), nobody)[0]


def opposite(tasks):
    """For a fixture's task the one that moves it the other way, else the task."""
    names = {t.name: i for i, t in enumerate(TASKS)}
    pairs = {(t.fixture, t.direction): names[t.name] for t in TASKS if t.fixture}
    return np.array(
        [pairs.get((TASKS[i].fixture, -TASKS[i].direction), i) for i in tasks], np.int32
    )


def column(recording, name):
    return recording.facts[..., FACTS.index(name)]


def test_experts_solve_every_family(recorder, tasks):
    success = column(record(recorder, tasks, "expert"), "success").any(1)
    families = defaultdict(list)
    for task, won in zip(tasks, success, strict=True):
        families[TASKS[task].family].append(won)
    shares = {family: np.mean(won) for family, won in families.items()}
    assert min(shares.values()) >= 0.85, shares


def test_one_run_is_judged_oppositely_by_opposite_tasks(recorder, tasks):
    recording = record(recorder, tasks, "expert")
    act = recording.facts[..., FACTS.index("act")]
    other = recording.other_facts[..., FACTS.index("act")]
    same = recording.task == recording.other
    np.testing.assert_array_equal(act[same], other[same])
    start = recording.facts[:, 0, [FACTS.index("slide"), FACTS.index("hinge")]].max(1)
    middle = ~same & (start > 0.3) & (start < 0.7)
    assert middle.sum() > 20
    assert (act[middle, -1] * other[middle, -1] <= 0).all()
    assert other[middle, -1].mean() < -0.5


def test_random_runs_rarely_succeed(recorder, tasks):
    success = column(record(recorder, tasks, "random"), "success").any(1)
    assert success.mean() < 0.1


def test_every_run_starts_at_zero_and_unsolved(recorder, tasks):
    recording = record(recorder, tasks, "going wrong")
    np.testing.assert_allclose(column(recording, "progress")[:, 0], 0, atol=1.0)
    assert not column(recording, "success")[:, 0].any()
    assert column(recording, "progress").min() < -20


def test_some_runs_drag_what_they_should_lift(recorder):
    lifts = [i for i, t in enumerate(TASKS) if t.family == "lift"]
    tasks = np.resize(np.array(lifts, np.int32), 120)
    recording = record(recorder, tasks, "going wrong")
    grasped = column(recording, "grasped")[:, 1:] > 0.5
    height = column(recording, "named_z")
    low = height[:, 1:] < height[:, :1] + 0.01
    moved = [
        np.abs(np.diff(column(recording, f"named_{axis}"), axis=1)) for axis in "xy"
    ]
    dragged = grasped & low & (np.hypot(*moved) > 0.02)
    assert 0.1 < dragged.any(1).mean() < 0.6
    # That is no progress beyond the grasp.
    assert np.abs(column(recording, "act")[:, 1:][dragged]).max() < 0.2


def test_a_key_decides_every_byte(recorder, tasks):
    first, again = (record(recorder, tasks, "two mistakes") for _ in range(2))
    other = record(recorder, tasks, "two mistakes", seed=1)
    for name in ("external", "semantic", "facts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.external != other.external).any()


def test_the_id_buffer_shows_the_named_thing(recorder, tasks):
    recording = record(recorder, tasks, "expert")
    seen = np.array([len(np.unique(frame)) for frame in recording.semantic[:, 0]])
    assert recording.semantic.max() < len(CLASSES)
    assert (seen >= 3).mean() > 0.95
