"""`soler1 reward`: a score and an overlay a video, one line for each mistake."""

import json
import tracemalloc

import av
import h5py
import numpy as np
import pytest

from soler1_jax import cli
from soler1_jax.viz.video import write_mp4


@pytest.fixture
def clip(tmp_path):
    """A short array video, wide enough to be split."""
    path = tmp_path / "clip.npy"
    frames = np.random.default_rng(0).integers(0, 255, (20, 32, 64, 3), np.uint8)
    np.save(path, frames)
    return path


def _reward(*words):
    cli.main(["reward", *map(str, words)])


def test_a_video_gets_progress_for_every_frame_and_an_overlay(clip, tmp_path, capsys):
    out = tmp_path / "out"
    _reward(clip, clip, "--task", "lift it", "--rewarder", "time", "--out", out)
    for name in ("clip", "clip-2"):
        row = json.loads((out / f"{name}.json").read_text())
        assert len(row["progress"]) == 20 and row["progress"][0] == 0
        assert [q["frame"] for q in row["queries"]][0] == 0
        assert len(row["queries"]) == 9 and row["queries"][0]["seconds"] is None
        # The clock rises by an eighth a query; the rest lies on straight lines.
        frames = [q["frame"] for q in row["queries"]]
        expected = np.interp(range(20), frames, np.linspace(0, 100, 9))
        np.testing.assert_allclose(row["progress"], expected, atol=1e-3)
        with av.open(str(out / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 20
    result = json.loads((out / "result.json").read_text())
    assert set(result["videos"]) == {"clip", "clip-2"}
    assert "8 queries" in capsys.readouterr().out


def test_the_overlay_can_be_left_out(clip, tmp_path):
    words = ("--task", "lift it", "--rewarder", "random", "--count", "3")
    _reward(clip, *words, "--out", tmp_path / "out", "--no-overlay")
    assert not (tmp_path / "out" / "clip.mp4").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--views", "bot-split"], "both-split"),
        (["--fps", "0"], "fps"),
        (["--fps", "1", "--count", "3"], "one of"),
        (["--count", "1"], "count"),
        (["--seed", "-1"], "negative"),
        (["--rewarder", "oracle"], "true progress"),
        (["--rewarder", "nono"], "nano"),
        (["--batch", "0"], "batch"),
        (["--from-zero"], "released"),
        (["--readout", "likelihood"], "released"),
        (["--wrist", "a.mp4", "b.mp4"], "2 for 1"),
        (["--task", " "], "in words"),
    ],
)
def test_mistakes_are_one_line(clip, tmp_path, capsys, change, message):
    words = ["--task", "lift", "--rewarder", "time", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as stop:
        _reward(clip, *words, *change)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message in said


def _refused(capsys, *words):
    """The one line on standard error."""
    with pytest.raises(SystemExit) as stop:
        _reward(*words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "Traceback" not in said
    return said


def _video(path, frames, size=(16, 16), fps=5):
    """A video file of random frames."""
    pixels = np.random.default_rng(len(path.name)).integers(
        0, 255, (frames, *size, 3), np.uint8
    )
    write_mp4(path, pixels, fps)
    return path


def test_one_frame_is_zero_and_said_so(tmp_path, capsys):
    alone, other = tmp_path / "alone.npy", tmp_path / "other.npy"
    np.save(alone, np.zeros((1, 16, 16, 3), np.uint8))
    np.save(other, np.zeros((4, 16, 16, 3), np.uint8))
    out = tmp_path / "out"
    for videos in ([alone], [alone, other]):
        _reward(*videos, "--task", "lift", "--rewarder", "time", "--out", out)
        said = capsys.readouterr()
        assert "0 queries; progress at the end 0 %" in said.out
        assert "one frame" in said.err and "by definition" in said.err
        row = json.loads((out / "alone.json").read_text())
        assert row["progress"] == [0] and len(row["queries"]) == 1
        assert row["parse_rate"] is None and row["seconds_per_query"] is None
        with av.open(str(out / "alone.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 1
    assert json.loads((out / "other.json").read_text())["progress"][-1] == 37.5


def test_no_frames_are_refused(tmp_path, capsys):
    path = tmp_path / "none.npy"
    np.save(path, np.zeros((0, 16, 16, 3), np.uint8))
    words = ("--task", "lift", "--rewarder", "time", "--out", tmp_path / "out")
    assert "has none" in _refused(capsys, path, *words)
    assert not (tmp_path / "out").exists()


def test_ten_thousand_frames_need_the_memory_of_a_few(tmp_path, capsys):
    count, size = 10_000, 96
    path = tmp_path / "long.npy"
    frames = np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3))
    frames[:, 0, 0, 0] = np.arange(count) % 256
    del frames
    out = tmp_path / "out"
    words = ("--task", "lift", "--rewarder", "random", "--out", out, "--no-overlay")
    tracemalloc.start()
    _reward(path, *words, "--count", "2000")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = capsys.readouterr()
    assert "1999 queries" in said.out and "queries/s" in said.err
    assert len(json.loads((out / "long.json").read_text())["progress"]) == count
    # The frames asked about are 55 MB, all of them 276.
    assert peak < 30e6


def test_files_that_are_no_pair_are_refused(tmp_path, capsys):
    external = _video(tmp_path / "e.mp4", 6)
    words = ("--task", "lift", "--rewarder", "time", "--out", tmp_path / "out")
    for wrist, message in (
        (_video(tmp_path / "short.mp4", 5), "equally long"),
        (_video(tmp_path / "slow.mp4", 6, fps=2), "one rate"),
        (external, "different pictures"),
    ):
        assert message in _refused(capsys, external, *words, "--wrist", wrist)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(external.read_bytes())
    assert "different pictures" in _refused(capsys, external, *words, "--wrist", copy)
    _reward(external, *words, "--wrist", _video(tmp_path / "wri.mp4", 6, (24, 16)))


@pytest.mark.parametrize(
    ("size", "views", "message"),
    [
        ((16, 32), "external", "--views both-split"),
        ((16, 16), "both-split", "--views external or wrist"),
        ((16, 32), "both-split", None),
        ((16, 24), "wrist", None),
    ],
)
def test_a_doubtful_layout_is_noted(tmp_path, capsys, size, views, message):
    path = _video(tmp_path / "v.mp4", 3, size)
    out = tmp_path / "out"
    words = ("--task", "lift", "--rewarder", "time", "--views", views, "--out", out)
    _reward(path, *words)
    said = capsys.readouterr().err
    assert message in said if message else "note" not in said
    assert (out / "result.json").exists()


def test_datasets_of_an_hdf5_file_are_named_and_listed(tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    path, out = tmp_path / "demo.hdf5", tmp_path / "out"
    with h5py.File(path, "w") as file:
        for camera in ("agentview_image", "robot0_eye_in_hand_image"):
            file[f"data/demo_0/obs/{camera}"] = frames
        file["data/demo_0/actions"] = np.zeros((3, 7))
    words = ("--task", "lift", "--rewarder", "time", "--out", out)
    said = _refused(capsys, path, *words)
    assert "data/demo_0/obs/agentview_image" in said and "actions" not in said
    said = _refused(capsys, f"{path}::obs/side", *words)
    assert "data/demo_0/obs/robot0_eye_in_hand_image" in said
    said = _refused(capsys, f"{path}::data/demo_0/actions", *words)
    assert "[T, H, W, 3]" in said
    _reward(f"{path}::data/demo_0/obs/agentview_image", *words)
    assert len(json.loads((out / "agentview_image.json").read_text())["progress"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "does not exist"),
        ("empty.mp4", b"", "empty"),
        ("words.mp4", b"not a video", "readable"),
    ],
)
def test_unreadable_videos_are_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    words = ["--task", "lift", "--rewarder", "time", "--out", tmp_path / "out"]
    assert message in _refused(capsys, tmp_path / name, *words)
