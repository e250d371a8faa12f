"""What TensorBoard reads of a run, and W&B where it is wanted."""

import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from soler1_jax.common.errors import UserError
from soler1_jax.common.trackers import FOLDER, Trackers


def _events(folder):
    """Events of all files, read by the format: length, crc, bytes, crc."""
    found = []
    for path in sorted((folder / FOLDER).iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + size])
            found.append(event)
            data = data[16 + size :]
    return found


def _scalars(events):
    return [
        (event.step, value.tag, round(value.simple_value, 4))
        for event in events
        for value in event.summary.value
    ]


def test_numbers_reach_tensorboard(tmp_path):
    trackers = Trackers(tmp_path, {})
    trackers.log(3, {"step": 3, "stage": "sft", "loss": 0.5, "done": True, "name": "x"})
    trackers.log(4, {"step": 4, "loss": 0.25})
    found = _scalars(_events(tmp_path))
    assert (3, "sft/loss", 0.5) in found and (4, "loss", 0.25) in found
    assert not any("name" in tag or "done" in tag for _, tag, _ in found)


def test_a_continued_run_replaces_what_comes_after(tmp_path):
    trackers = Trackers(tmp_path, {})
    trackers.forget_after(7)
    trackers.log(8, {"loss": 1.0})
    starts = [e.step for e in _events(tmp_path) if e.HasField("session_log")]
    assert starts == [8]  # TensorBoard drops what earlier files have from here on


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, numbers, step):
            calls.append((step, numbers))

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setenv("WANDB_PROJECT", "robots")
    trackers = Trackers(tmp_path, {"seed": 1})
    trackers.log(1, {"loss": 2.0})
    assert calls[0]["project"] == "robots" and calls[0]["config"] == {"seed": 1}
    assert calls[0]["resume"] == "allow" and calls[1] == (1, {"loss": 2.0})
    again = Trackers(tmp_path, {"seed": 1})
    again.log(2, {"loss": 1.0})
    assert calls[2]["id"] == calls[0]["id"]


def test_wandb_that_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_PROJECT", "robots")
    with pytest.raises(UserError, match="wandb is not installed"):
        Trackers(tmp_path, {}).log(1, {"loss": 2.0})
