"""`soler1 sft` and `soler1 rlvr`, killed without warning and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

CALL = [sys.executable, "-c", "from soler1_jax.cli import main; main()"]
SFT = ["--perception-steps", "6", "--compare-steps", "3", "--progress-steps", "9"]
SFT += ["--perception-episodes", "2", "--save-every", "2"]
LIMIT_S = 400


def _start(command, folder, options):
    arguments = [command, "--out", str(folder), "--episodes", "2", "--queries", "2"]
    arguments += ["--log-every", "1", *options]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([*CALL, *arguments], env=env, stderr=subprocess.PIPE)


def _finish(process):
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors.decode()[-2000:]


def _kill_after(process, folder, step):
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            break
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read().decode()[-2000:]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (folder / "result.json").exists()


def _weights(folder):
    with np.load(folder / "model" / "weights.npz") as stored:
        return {name: stored[name] for name in stored.files}


def _losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def _check_same(one, two):
    assert _losses(one) == _losses(two)
    first, second = _weights(one), _weights(two)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(data_folder, tmp_path):
    shared = ["--data", str(data_folder), "--model", "micro"]
    shared += ["--tokenizer", str(data_folder / "tokenizer.model")]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _finish(_start("sft", whole, [*shared, *SFT]))
    _kill_after(_start("sft", broken, [*shared, *SFT]), broken, 5)
    _kill_after(_start("sft", broken, [*shared, *SFT]), broken, 12)
    _finish(_start("sft", broken, [*shared, *SFT]))
    _check_same(whole, broken)

    shared = ["--data", str(data_folder), "--model", str(whole / "model")]
    shared += ["--steps", "6", "--save-every", "2", "--group", "3", "--kl", "0.05"]
    one, two = tmp_path / "rlvr", tmp_path / "rlvr-broken"
    _finish(_start("rlvr", one, shared))
    _kill_after(_start("rlvr", two, shared), two, 3)
    _finish(_start("rlvr", two, shared))
    _check_same(one, two)
