"""Schedules: what each level may do, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.synthesis import mistakes
from soler1_jax.synthesis.mistakes import LEVELS, MODES

STEPS = 40


@pytest.fixture(scope="module")
def modes():
    """Mode of each control step of 200 worlds a level, int [levels, 200, STEPS]."""

    def one(key, level):
        schedule = mistakes.draw(key, level, STEPS)
        no = jnp.zeros((), bool)
        return jax.vmap(lambda t: mistakes.mode_at(schedule, t, no))(jnp.arange(STEPS))

    keys = jax.random.split(jax.random.key(0), 200)
    every = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    return np.asarray(jax.jit(every)(keys, jnp.arange(len(LEVELS))))


def runs(row):
    """Names of the modes in order, repetitions dropped."""
    names = [MODES[m] for m in row]
    return [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]


def test_experts_never_err_and_random_worlds_never_do_anything_else(modes):
    for level in ("expert", "noisy"):
        assert (modes[LEVELS.index(level)] == MODES.index("expert")).all()
    assert (modes[LEVELS.index("random")] == MODES.index("random")).all()


def test_a_mistake_is_followed_by_a_straight_line_and_the_expert(modes):
    for row in modes[LEVELS.index("one mistake")]:
        told = runs(row)
        assert told[-2:] == ["cut", "expert"]
        assert told[-3] in mistakes._SLIPS
    starts = (modes[LEVELS.index("one mistake")] == MODES.index("expert")).argmin(1)
    assert starts.std() > 3, "the state that a run deviates from must vary"


def test_two_mistakes_are_two(modes):
    slips = [
        sum(name in mistakes._SLIPS for name in runs(row))
        for row in modes[LEVELS.index("two mistakes")]
    ]
    assert set(slips) == {2}


def test_failures_do_not_recover_by_themselves(modes):
    for row in modes[LEVELS.index("failing")]:
        assert runs(row)[-1] == "expert" or runs(row)[0] == "expert"
        assert len(runs(row)) <= 2


def test_some_wrong_starts_recover_late(modes):
    rows = [runs(row) for row in modes[LEVELS.index("going wrong")]]
    assert all(row[0] in mistakes._WRONG for row in rows)
    recovered = np.mean([row[-1] == "expert" for row in rows])
    assert 0.3 < recovered < 0.7


def test_a_passed_limit_turns_to_failure():
    schedule = mistakes.draw(
        jax.random.key(1), jnp.int32(LEVELS.index("failing")), STEPS
    )
    mode = mistakes.mode_at(schedule, jnp.int32(0), jnp.ones((), bool))
    assert MODES[int(mode)] in mistakes._FAILURES
    for level in range(len(LEVELS)):
        limits = [
            float(mistakes.draw(jax.random.key(i), jnp.int32(level), STEPS).limit)
            for i in range(20)
        ]
        assert any(np.isfinite(limits)) == (LEVELS[level] == "failing")


def test_some_worlds_in_which_things_are_grasped_drag_in_every_direction():
    keys = jax.random.split(jax.random.key(1), 400)
    level = LEVELS.index("going wrong")
    draw = jax.vmap(lambda k, grasps: mistakes.draw(k, level, STEPS, grasps), (0, None))
    assert not np.asarray(draw(keys, False).drag).any()
    schedule = draw(keys, True)
    drag = np.asarray(schedule.drag)
    length = np.linalg.norm(drag, axis=1)
    assert np.isin(length.round(5), (0.0, 1.0)).all()
    assert 0.4 < length.mean() < 0.6
    against = np.asarray(schedule.mode)[:, 0] == MODES.index("opposite")
    assert against[length > 0].all() and not against[length == 0].all()
    assert (np.sign(drag[length > 0]).mean(0) ** 2 < 0.1).all()
