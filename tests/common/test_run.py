"""Run folders: continuing, refusing, and never half-written."""

import json
import os
import subprocess
import sys

import pytest

from soler1_jax.common import errors
from soler1_jax.common.run import Run, read_json, write_json


def test_the_same_command_continues_and_another_is_refused(tmp_path):
    first = Run(tmp_path / "r", "sft", {"seed": 1, "steps": 10})
    first.log(1, {"loss": 2.0})
    assert not first.resumed and not first.finished
    again = Run(tmp_path / "r", "sft", {"seed": 1, "steps": 20}, may_change=("steps",))
    again.log(2, {"loss": 1.0})
    again.finish({"loss": 1.0})
    assert again.resumed and again.finished
    lines = (tmp_path / "r/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    with pytest.raises(errors.UserError, match="seed = 1, now 2"):
        Run(tmp_path / "r", "sft", {"seed": 2, "steps": 20}, may_change=("steps",))
    with pytest.raises(errors.UserError, match="command"):
        Run(tmp_path / "r", "rl", {"seed": 1, "steps": 20})


HOLD = """
import sys, time
from soler1_jax.common.run import Run
Run(sys.argv[1], "sft", {})
print("open", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_until_it_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(errors.UserError, match="is in use"):
            Run(tmp_path, "sft", {})
        other.kill()
    assert Run(tmp_path, "sft", {}).resumed


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(errors.UserError, match="free disk space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="must be a folder"):
        Run(tmp_path / "file" / "run", "rl", {})


def test_half_a_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(errors.UserError, match="must be whole"):
        read_json(tmp_path / "x.json")
