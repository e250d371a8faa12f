"""Written videos play back; film strips are lossless."""

import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from soler1_jax.common.errors import UserError
from soler1_jax.viz import overlay, video


def _read(path):
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], rate


def test_frames_are_encoded_in_order_at_their_rate(tmp_path):
    levels = (20, 90, 160, 230)
    frames = [np.full((33, 48, 3), level, np.uint8) for level in levels]
    assert video.write_mp4(tmp_path / "v.mp4", iter(frames), 2.5) == 4
    read, rate = _read(tmp_path / "v.mp4")
    assert rate == pytest.approx(2.5) and read[0].shape == (32, 48, 3)
    assert [f.mean() for f in read] == pytest.approx(levels, abs=4)


def test_a_failed_video_leaves_nothing_behind(tmp_path):
    def broken():
        yield np.zeros((8, 8, 3), np.uint8)
        raise UserError("the source broke; it did; mend it")

    with pytest.raises(UserError):
        video.write_mp4(tmp_path / "v.mp4", broken(), 2)
    with pytest.raises(UserError, match="got none"):
        video.write_mp4(tmp_path / "v.mp4", [], 2)
    assert list(tmp_path.iterdir()) == []


def test_film_strips_are_lossless():
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    uri = video.png_uri(video.film_strip(frames))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    for t in range(5):
        np.testing.assert_array_equal(picture[:, 7 * t : 7 * (t + 1)], frames[t])


def _overlay(**changes):
    values = {
        "progress": np.linspace(0, 100, 9),
        "indices": [0, 4, 8],
        "thoughts": ["", "gripper nearer, progress up", "goal reached " * 60],
        "task": "lift the red cube",
    }
    return overlay.Overlay(**{**values, **changes})


@pytest.mark.parametrize("size", [(64, 64), (40, 300), (768, 1536), (1000, 100)])
def test_overlays_have_one_even_size_and_keep_the_frame(size):
    frames = np.full((9, *size, 3), 77, np.uint8)
    drawn = list(overlay.draw(frames, _overlay()))
    assert len({d.shape for d in drawn}) == 1
    height, width, _ = drawn[0].shape
    assert height % 2 == width % 2 == 0 and width <= 960
    assert (drawn[0][10, 10:50] == 77).all()


def _amount(frame, color):
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((frame == wanted).all(-1).sum())


def test_the_curve_grows_and_the_thought_follows_its_query():
    frame = np.zeros((64, 64, 3), np.uint8)
    drawn = [overlay.draw_frame(frame, _overlay(), t) for t in range(9)]
    # The number at the right edge is as bright as the curve.
    wanted = [int(overlay._SAID[i : i + 2], 16) for i in (1, 3, 5)]
    ends = [(d[:, :-70] == wanted).all(-1).any(0).nonzero()[0].max() for d in drawn]
    steps = np.diff(ends)
    assert (abs(steps[1:-1] - steps[1:-1].mean()) < 8).all() and steps.min() > 20
    ink = [d[-60:] for d in drawn]
    np.testing.assert_array_equal(ink[4], ink[7])
    assert (ink[3] != ink[4]).any() and (ink[7] != ink[8]).any()


def test_the_truth_is_drawn_only_where_it_is_known():
    frame = np.zeros((64, 64, 3), np.uint8)
    without = overlay.draw_frame(frame, _overlay(), 3)
    known = overlay.draw_frame(frame, _overlay(true=np.linspace(0, 50, 9)), 3)
    assert _amount(without, overlay._TRUE) == 0 < _amount(known, overlay._TRUE)
