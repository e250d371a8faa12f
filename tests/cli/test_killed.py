"""`soler1 synth` and `soler1 rl`, killed without warning and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

# Compiling physics and renderer takes minutes on two cores.
pytestmark = pytest.mark.slow
CALL = [sys.executable, "-c", "from soler1_jax.cli import main; main()"]
LIMIT_S = 900


def start(*arguments):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([*CALL, *map(str, arguments)], env=env)


def finish(process):
    assert process.wait(LIMIT_S) == 0


def kill_after(process, folder, lines):
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= lines:
            break
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()


def test_a_killed_synthesis_ends_with_the_same_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--episodes", 24, "--worlds", 8, "--seed", 3, "--no-wrist"]
    finish(start("synth", "--out", whole, *options))
    kill_after(start("synth", "--out", broken, *options), broken, 1)
    finish(start("synth", "--out", broken, *options))
    shards = [
        {p.name: p.read_bytes() for p in folder.glob("soler1-*")}
        for folder in (whole, broken)
    ]
    assert len(shards[0]) == 3
    assert shards[0] == shards[1]


def curve(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "learning_seconds")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def test_a_killed_policy_learns_on_to_the_same_end(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--task", "touch-red-cube", "--rewarder", "oracle", "--algo", "ppo"]
    options += ["--worlds", 32, "--batch", 64, "--iterations", 8, "--episodes", 32]
    options += ["--save-seconds", 0]
    finish(start("rl", "--out", whole, *options))
    kill_after(start("rl", "--out", broken, *options), broken, 3)
    finish(start("rl", "--out", broken, *options))
    assert curve(whole) == curve(broken)
    ends = [json.loads((f / "result.json").read_text()) for f in (whole, broken)]
    assert not ends[0]["resumed"] and ends[1]["resumed"]
    assert ends[0]["tasks"] == ends[1]["tasks"]
