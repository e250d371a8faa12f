"""Videos are asked about in order; folders are compared with their truth as it is."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data.video import open_video
from soler1_jax.evals import realvideo

CURVE = np.array([0, 5, 10, 20, 40, 60, 80, 100, 100], np.float32)


def _save_video(path, curve=CURVE, width=8):
    """Grey frames that tell progress + 100, losslessly."""
    frames = np.broadcast_to(
        (curve + 100).astype(np.uint8)[:, None, None, None],
        (len(curve), 8, width, 3),
    )
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=2, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 8, width, "rgb24"
        for frame in frames:
            out.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                )
            )
        out.mux(stream.encode())
    return path


def _score(rewarder, path, **kwargs):
    return realvideo.score_video(rewarder, open_video(path), "lift", **kwargs)


def test_the_first_frame_is_zero_and_the_rest_is_interpolated(make_rewarder, tmp_path):
    path = tmp_path / "v.npy"
    # Its first frame would be read as 50: by definition it is 0.
    curve = CURVE.copy()
    curve[0] = 50
    np.save(
        path,
        np.broadcast_to(
            (curve + 100).astype(np.uint8)[:, None, None, None], (9, 8, 8, 3)
        ),
    )
    score = _score(make_rewarder(words=True), path, count=3)
    assert score.indices.tolist() == [0, 4, 8]
    np.testing.assert_allclose(score.answers, [0, 40, 100], atol=1e-3)
    np.testing.assert_allclose(
        score.progress, [0, 10, 20, 30, 40, 55, 70, 85, 100], atol=1e-3
    )
    assert score.thoughts[0] == "" and "progress up" in score.thoughts[1]
    assert len(score.seconds) == 2 and (score.seconds > 0).all()
    written = json.loads(json.dumps(realvideo.score_json(score)))
    assert [q["frame"] for q in written["queries"]] == [0, 4, 8]
    assert written["queries"][0]["seconds"] is None
    assert written["queries"][1]["seconds"] > 0


def test_wide_frames_are_boxed_and_halves_are_split(make_rewarder, tmp_path):
    path = _save_video(tmp_path / "v.mp4", width=16)
    score = _score(make_rewarder(), path, layout="both-split", count=9)
    np.testing.assert_allclose(score.answers[1:], CURVE[1:], atol=2)
    boxed = _score(make_rewarder(), path, count=9)
    # The fake reads the top left pixel, which is the black bar of a wide frame.
    np.testing.assert_allclose(boxed.answers[1:], -100)


def test_what_cannot_be_scored_is_refused(make_rewarder, tmp_path):
    path = _save_video(tmp_path / "v.mp4")
    for rewarder, kwargs, message in [
        (make_rewarder(), {"layout": "left"}, "laid out"),
        (make_rewarder(), {"layout": "wrist"}, "missing view"),
        (make_rewarder(truth=True), {}, "no true progress"),
    ]:
        with pytest.raises(UserError, match=message):
            _score(rewarder, path, count=3, **kwargs)
    with pytest.raises(UserError, match="in words"):
        realvideo.score_video(make_rewarder(), open_video(path), "  ", count=3)


def _folder(tmp_path, truth=CURVE):
    for i, curve in enumerate([CURVE, CURVE / 4]):
        _save_video(tmp_path / f"e{i}.mp4", curve)
        (tmp_path / f"e{i}.ground_truth.json").write_text(
            json.dumps(
                {
                    "task description": "lift",
                    "ground-truth rewards": (truth if i == 0 else curve).tolist(),
                }
            )
        )
    (tmp_path / "e0.other.json").write_text(
        json.dumps([{"model": "other", "rewards": (100 - CURVE).tolist()}])
    )
    return tmp_path


def test_a_folder_is_compared_with_its_truth_and_with_others(make_rewarder, tmp_path):
    result, scores = realvideo.evaluate_folder(
        make_rewarder(), _folder(tmp_path), layout="external", count=9
    )
    ours = result["summary"]["fake"]
    assert ours["videos"] == 2 and ours["solved"] == 1
    assert ours["pearson"] > 0.99 and ours["mae"] < 2 and ours["auc_highest"] == 1
    assert result["summary"]["other"]["pearson"] == pytest.approx(-1)
    assert result["summary"]["other"]["videos"] == 1
    assert set(scores) == {"e0", "e1"}


def test_truth_of_another_length_is_refused(make_rewarder, tmp_path):
    folder = _folder(tmp_path, truth=CURVE[:-1])
    with pytest.raises(UserError, match="8 values"):
        realvideo.evaluate_folder(make_rewarder(), folder, layout="external", count=9)


def test_a_folder_without_truth_is_refused(make_rewarder, tmp_path):
    for folder, message in [(tmp_path / "no", "folder"), (tmp_path, "truth beside")]:
        with pytest.raises(UserError, match=message):
            realvideo.evaluate_folder(
                make_rewarder(), folder, layout="external", count=9
            )


@pytest.mark.skipif(
    "SOLER1_ROBOSUITE" not in os.environ, reason="needs the RoboSuite videos"
)
def test_the_ten_real_videos_are_scored_end_to_end(make_rewarder):
    folder = Path(os.environ["SOLER1_ROBOSUITE"])
    result, scores = realvideo.evaluate_folder(
        make_rewarder(), folder, layout="both-split", count=10
    )
    assert len(scores) == 10 and result["summary"]["fake"]["solved"] == 3
    for score in scores.values():
        assert score.indices.tolist() == [0, 2, 5, 8, 10, 13, 16, 18, 21, 24]
        assert np.isfinite(score.progress).all()


def test_videos_scored_together_get_what_they_get_alone(tmp_path, make_rewarder):
    rng = np.random.default_rng(0)
    paths = []
    for length in (12, 4, 9):
        path = tmp_path / f"{length}.npy"
        levels = rng.integers(100, 200, length).astype(np.uint8)
        frames = np.broadcast_to(levels[:, None, None, None], (length, 8, 8, 3))
        np.save(path, frames)
        paths.append(path)
    rewarder = make_rewarder()
    videos = [open_video(path) for path in paths]
    clips = [realvideo.read_clip(rewarder, v, "lift", count=6) for v in videos]
    together = realvideo.score_clips(rewarder, clips)
    for video, score in zip(videos, together, strict=True):
        alone = realvideo.score_video(rewarder, video, "lift", count=6)
        for field in ("indices", "answers", "parsed", "progress"):
            np.testing.assert_array_equal(
                getattr(score, field), getattr(alone, field), field
            )
        assert len(score.seconds) == len(alone.seconds)


def test_a_second_file_is_the_wrists_view(tmp_path, make_rewarder):
    external = np.zeros((4, 8, 8, 3), np.uint8)
    np.save(tmp_path / "e.npy", external)
    np.save(tmp_path / "w.npy", external + 7)
    np.save(tmp_path / "short.npy", external[:3])
    rewarder = make_rewarder(views=("external", "wrist"))
    first, second, short = (
        open_video(tmp_path / f"{name}.npy") for name in ("e", "w", "short")
    )
    clip = realvideo.read_clip(rewarder, first, "lift", wrist=second, count=3)
    assert clip.views["wrist"].max() == 7 and clip.views["external"].max() == 0
    with pytest.raises(UserError, match="4 frames.*3"):
        realvideo.read_clip(rewarder, first, "lift", wrist=short, count=3)
    alone = realvideo.read_clip(make_rewarder(), first, "lift", count=3)
    with pytest.raises(UserError, match="same views"):
        realvideo.score_clips(rewarder, [clip, alone])
