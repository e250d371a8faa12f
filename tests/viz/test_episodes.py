"""Episode files keep everything, or are refused."""

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.viz.episodes import load_episode, save_episode


@pytest.mark.parametrize("changes", [{}, {"wrist": None, "success": None}])
def test_an_episode_reads_back_as_written(make_view, tmp_path, changes):
    view = make_view(**changes)
    save_episode(tmp_path / "e.npz", view)
    again = load_episode(tmp_path / "e.npz")
    np.testing.assert_array_equal(again.frames, view.frames)
    np.testing.assert_allclose(again.predicted, view.predicted, rtol=1e-6)
    assert again.thoughts == view.thoughts and again.task == view.task
    assert again.success == view.success and again.title == "one"
    assert (again.wrist is None) == (view.wrist is None)
    assert again.queries == list(range(1, 9))


def test_thoughts_may_leave_out_the_first_frame(make_view, tmp_path):
    view = make_view()
    np.savez(
        tmp_path / "e.npz",
        frames=view.frames,
        predicted=view.predicted,
        true=view.true,
        thoughts=np.array(view.thoughts[1:]),
        task=view.task,
    )
    again = load_episode(tmp_path / "e.npz")
    assert again.thoughts == view.thoughts and again.title == "e"


def test_broken_files_and_uneven_episodes_are_refused(make_view, tmp_path):
    save_episode(tmp_path / "e.npz", make_view())
    data = (tmp_path / "e.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    np.savez(tmp_path / "less.npz", frames=make_view().frames)
    for name in ("half.npz", "less.npz", "none.npz"):
        with pytest.raises(UserError, match="whole"):
            load_episode(tmp_path / name)
    with pytest.raises(UserError, match="predicted has 3"):
        make_view(predicted=np.zeros(3))
