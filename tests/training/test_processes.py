"""Released models tuned by several processes and devices: the numbers of one device.

The oracle is the same command on one device. Two processes of four CPU devices each talk
over gloo, as hosts of a pod do over their links.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_released

from soler1_jax.reward.pretrained import load_vlm

pytestmark = pytest.mark.slow
CALL = [sys.executable, "-c", "from soler1_jax.cli import main; main()"]
LIMIT_S = 600
STEPS = 20
COMMON = [
    "--views",
    "external",
    "--no-remat",
    "--log-every",
    "1",
    "--steps",
    str(STEPS),
]
COMMON += ["--warmup-steps", "2", "--saved-dtype", "float32", "--save-every", "6"]
SFT = [*COMMON, "--rows", "8", "--tokens", "256", "--learning-rate", "1e-3"]
GRPO = [*COMMON, "--prompts", "8", "--group", "3", "--length", "40"]
GRPO += ["--learning-rate", "3e-5", "--claims", "0.5"]


def _start(command, options, devices=1, **variables):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [*CALL, command, *map(str, options)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _finish(*processes, code=0):
    for process in processes:
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == code, errors.decode()[-3000:]


def _together(command, options, devices=4):
    """Starts two processes of one job."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        _start(command, options, devices, JAX_PROCESS_ID=str(number), **shared)
        for number in range(2)
    ]


def _curve(folder, names):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return {name: np.array([row[name] for row in rows]) for name in names}


def _weights(folder):
    params = load_vlm(folder / "model", "float32").params
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


def _check_same(one, other, names):
    ours, theirs = _curve(one, names), _curve(other, names)
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    first, second = _weights(one), _weights(other)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return tiny_released.write(tmp_path_factory.mktemp("released") / "tiny")


@pytest.fixture(scope="module")
def sft(released, data_folder, tmp_path_factory):
    """The command without its folder, and the run of one device."""
    out = tmp_path_factory.mktemp("sft") / "one"
    options = ["--model", released, "--data", data_folder, *SFT]
    _finish(_start("sft-vlm", [*options, "--out", out]))
    return options, out


@pytest.mark.parametrize("mesh", ["1,8,1", "2,2,2"])
def test_two_processes_of_four_devices_equal_one_device(mesh, sft, tmp_path):
    options, one = sft
    out = ["--out", tmp_path / "run"]
    _finish(*_together("sft-vlm", [*options, *out, "--mesh", mesh]))
    _check_same(one, tmp_path / "run", ["loss", "tokens", "grad_norm"])


def test_what_eight_devices_began_one_continues(sft, tmp_path):
    options, one = sft
    out = tmp_path / "run"
    process = _start("sft-vlm", [*options, "--out", out, "--mesh", "2,2,2"], devices=8)
    deadline = time.monotonic() + LIMIT_S
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 8:
        assert process.poll() is None, process.stderr.read().decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _finish(process, code=143)
    saved = max(
        int(p.name) for p in (out / "checkpoints").iterdir() if p.name.isdigit()
    )
    assert 8 <= saved < STEPS
    _finish(_start("sft-vlm", [*options, "--out", out]))
    _check_same(one, out, ["loss", "tokens", "grad_norm"])


def test_two_processes_improve_a_model_as_one_device_does(
    released, data_folder, tmp_path
):
    # one that states numbers, so that some answers earn more than others
    taught = ["--model", released, "--data", data_folder, *SFT, "--steps", "60"]
    taught += ["--mixture", "progress", "--learning-rate", "1e-2"]
    _finish(_start("sft-vlm", [*taught, "--out", tmp_path / "taught"]))
    model = tmp_path / "taught/model"
    options = ["--model", model, "--data", data_folder, *GRPO]
    one, two = tmp_path / "one", tmp_path / "two"
    _finish(_start("rlvr-vlm", [*options, "--out", one]))
    _finish(*_together("rlvr-vlm", [*options, "--out", two, "--mesh", "2,2,2"]))
    rewards = _curve(one, ["reward"])["reward"]
    assert rewards.std() > 0
    _check_same(one, two, ["loss", "reward", "length"])


def test_killed_tuning_ends_with_the_same_bits(sft, tmp_path):
    options, one = sft
    out = tmp_path / "run"
    metrics = out / "metrics.jsonl"
    for wanted in (3, 11):
        process = _start("sft-vlm", [*options, "--out", out])
        while not metrics.exists() or metrics.read_text().count("\n") < wanted:
            assert process.poll() is None, process.stderr.read().decode()[-3000:]
            time.sleep(0.01)
        process.kill()
        process.wait()
    _finish(_start("sft-vlm", [*options, "--out", out]))
    names = ["loss", "grad_norm"]
    ours, theirs = _curve(one, names), _curve(out, names)
    assert all(np.array_equal(ours[name], theirs[name]) for name in names)
    first, second = _weights(one), _weights(out)
    assert all(np.array_equal(first[k], second[k]) for k in first)
