"""`soler1 reward`: a score and an overlay a video, one line for each mistake."""

import json

import av
import numpy as np
import pytest

from soler1_jax import cli


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
    with pytest.raises(SystemExit) as stop:
        _reward(tmp_path / name, *words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message in said
