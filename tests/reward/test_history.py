"""Frames are remembered evenly, in bounded memory, each episode on its own."""

import jax
import numpy as np
import pytest

from soler1_jax.reward.history import begin, choose, remember


def _frames(number, batch=1):
    """Frames that tell their number."""
    low, high = number % 256, number // 256
    picture = np.array([low, high, 7], np.uint8)
    return np.broadcast_to(picture, (batch, 2, 3, 3))


def _numbers(frames):
    frames = np.asarray(frames).astype(int)
    assert (frames[..., 2] == 7).all()
    return (frames[..., 0] + 256 * frames[..., 1])[..., 0, 0]


def _watch(total, capacity):
    step = jax.jit(remember)
    history = begin(_frames(0), capacity)
    for number in range(1, total):
        history = step(history, _frames(number))
    return history


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 23, 24])
def test_up_to_its_capacity_it_is_numpys_linspace(total, count):
    frames, shown = choose(_watch(total, 24), count)
    wanted = np.rint(np.linspace(0, total - 1, min(count, total))).astype(int)
    if count == 1:
        wanted = np.array([0]) if total == 1 else wanted
    assert shown.tolist() == [len(wanted)]
    found = _numbers(frames)[0]
    np.testing.assert_array_equal(found[: len(wanted)], wanted)
    if count > total:
        assert (found[total:] == total - 1).all()


@pytest.mark.parametrize(("total", "half"), [(5, 2), (64, 3), (65, 4), (257, 2)])
def test_beyond_it_first_and_latest_stay_and_steps_are_even(total, half):
    capacity = 2 * half
    history = _watch(total, capacity)
    frames, shown = choose(history, capacity + 1)
    found = _numbers(frames)[0, : int(shown[0])]
    assert found[0] == 0 and found[-1] == total - 1
    stride = int(history.stride[0])
    # At least half of the places are in use, and they are a stride apart.
    assert min(total, half) <= len(found) <= capacity + 1
    assert (np.diff(found)[:-1] == stride).all() and np.diff(found)[-1:].sum() <= stride


def test_episodes_of_a_batch_do_not_share_what_they_have_seen():
    long, short = _watch(11, 4), _watch(3, 4)
    both = jax.tree.map(lambda *x: np.concatenate(x), long, short)
    both = remember(both, np.concatenate([_frames(11), _frames(3)]))
    for row, alone in enumerate(
        (remember(long, _frames(11)), remember(short, _frames(3)))
    ):
        for mine, theirs in zip(choose(both, 3), choose(alone, 3), strict=True):
            np.testing.assert_array_equal(mine[row], theirs[0])
