"""Videos come in whole or not at all, and are sampled and fitted as said."""

import av
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from soler1_jax.common.errors import UserError
from soler1_jax.data import video


def _frames(count=12, height=32, width=48):
    """Frames whose grey level tells their number."""
    levels = np.linspace(20, 235, count).astype(np.uint8)
    return np.broadcast_to(
        levels[:, None, None, None], (count, height, width, 3)
    ).copy()


def _write_mp4(path, frames, fast_start=False):
    options = {"movflags": "faststart"} if fast_start else {}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=6)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def _save(kind, tmp_path, frames):
    if kind == "mp4":
        return _write_mp4(tmp_path / "v.mp4", frames)
    if kind == "folder":
        # 10 sorts after 9 by number and before it by name.
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
        return tmp_path
    if kind == "npy":
        np.save(tmp_path / "v.npy", frames)
        return tmp_path / "v.npy"
    np.savez(tmp_path / "v.npz", frames=frames / 255.0)
    return tmp_path / "v.npz"


@pytest.mark.parametrize("kind", ["mp4", "folder", "npy", "npz"])
def test_every_kind_reads_the_same_frames(kind, tmp_path):
    frames = _frames()
    opened = video.open_video(_save(kind, tmp_path, frames))
    assert opened.count == 12
    assert opened.fps == (pytest.approx(6) if kind == "mp4" else None)
    read = opened.read(np.array([0, 9, 10, 11]))
    assert read.dtype == np.uint8
    tolerance = 3 if kind == "mp4" else 0
    np.testing.assert_allclose(
        read.astype(int), frames[[0, 9, 10, 11]].astype(int), atol=tolerance
    )


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (12, 64, 64, 3), np.uint8)
    data = _write_mp4(tmp_path / "v.mp4", noise, fast_start=True).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        path = tmp_path / f"cut{share}.mp4"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UserError, match="half-written|breaks off"):
            opened = video.open_video(path)
            opened.read(np.arange(opened.count))
        with pytest.raises(UserError, match="half-written|breaks off"):
            list(video.open_video(path).frames())


def test_a_file_cut_between_two_frames_is_refused_too(tmp_path):
    path = _write_mp4(tmp_path / "v.mp4", _frames(12), fast_start=True)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        end = packets[-1].pos
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match="breaks off after 11 of 12"):
        list(video.open_video(path).frames())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"not a video at all", "not"),
        ("text.npy", b"not an array", "not"),
        ("text.npz", b"PK\x03\x04 half a zip", "not"),
    ],
)
def test_unreadable_input_is_one_clear_error(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        video.open_video(tmp_path / name)


def test_no_frame_or_a_wrong_shape_is_refused(tmp_path):
    np.save(tmp_path / "none.npy", _frames(1)[:0])
    np.save(tmp_path / "flat.npy", np.zeros((4, 8, 8), np.uint8))
    np.savez(tmp_path / "other.npz", pictures=_frames(3))
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("none.npy", "has none"),
        ("flat.npy", r"\[T, H, W, 3\]"),
        ("other.npz", "key frames"),
        ("folder", "has none"),
    ]:
        with pytest.raises(UserError, match=message):
            video.open_video(tmp_path / name)


def test_pictures_of_two_sizes_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="one size"):
        video.open_video(tmp_path).read(np.array([0, 1]))


def test_sampling_by_count_keeps_both_ends_and_rounds_down():
    # The frames at which the paper's released outputs were asked.
    expected = [0, 2, 5, 8, 10, 13, 16, 18, 21, 24]
    assert video.sample(25, count=10).tolist() == expected
    assert video.sample(3, count=10).tolist() == [0, 1, 2]


def test_sampling_by_rate():
    assert video.sample(10, source_fps=6, fps=2).tolist() == [0, 3, 6, 9]
    assert video.sample(4, source_fps=6, fps=100).tolist() == [0, 1, 2, 3]
    assert video.sample(4, source_fps=None, fps=1).tolist() == [0, 1, 2, 3]
    assert video.sample(10, source_fps=30, fps=1).tolist() == [0, 9]


@hypothesis.given(st.integers(2, 200), st.integers(2, 60))
def test_samples_ascend_from_the_first_frame(total, count):
    indices = video.sample(total, count=count)
    assert indices[0] == 0 and indices[-1] == total - 1
    assert (np.diff(indices) > 0).all()


def test_bad_sampling_is_refused():
    for wrong in ({}, {"fps": 1, "count": 3}, {"fps": 0}, {"fps": -1}, {"count": 1}):
        with pytest.raises(UserError):
            video.sample(10, 5, **wrong)


def test_views_split_in_the_middle():
    frames = np.zeros((3, 4, 10, 3), np.uint8)
    frames[:, :, 5:] = 9
    views = video.split_views(frames, "both-split")
    assert (views["external"] == 0).all() and (views["wrist"] == 9).all()
    assert views["wrist"].shape == (3, 4, 5, 3)
    assert list(video.split_views(frames, "wrist")) == ["wrist"]
    with pytest.raises(UserError, match="both-split"):
        video.split_views(frames, "both")


def test_letterbox_centres_on_black():
    # 600x400 at 256: 256x170, 43 black rows above (the reference's own case).
    boxed = video.letterbox(np.full((400, 600, 3), 200, np.uint8), 256)
    filled = np.flatnonzero((boxed == 200).all((1, 2)))
    assert boxed.shape == (256, 256, 3)
    assert (filled[0], len(filled)) == (43, 170)
    assert set(np.unique(boxed)) == {0, 200}


@hypothesis.given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40))
def test_letterbox_keeps_the_mean_of_what_it_fills(height, width, size):
    rng = np.random.default_rng(height * 1600 + width * 40 + size)
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    scale = size / max(height, width)
    area = max(1, int(height * scale)) * max(1, int(width * scale))
    boxed = video.letterbox(frame, size)
    np.testing.assert_allclose(boxed.sum((0, 1)) / area, frame.mean((0, 1)), atol=0.51)


def test_letterbox_averages_areas():
    frame = np.array([[[0, 0, 0], [100, 0, 0]], [[200, 0, 0], [60, 0, 0]]], np.uint8)
    assert video.letterbox(frame, 1)[0, 0].tolist() == [90, 0, 0]
    assert video.letterbox(frame, 2) is frame


def test_hdf5_frames_are_read_and_others_refused(tmp_path):
    import h5py

    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), np.uint8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["frames"] = frames
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["pictures"] = frames
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["frames"] = frames[..., 0]
    (tmp_path / "d.h5").write_bytes(b"not HDF5")
    opened = video.open_video(tmp_path / "a.hdf5")
    np.testing.assert_array_equal(opened.read(np.array([0, 3])), frames[[0, 3]])
    for name, message in (("b", "pictures"), ("c", r"\[5, 8, 9\]"), ("d", "readable")):
        with pytest.raises(UserError, match=message):
            video.open_video(tmp_path / f"{name}.h5")
