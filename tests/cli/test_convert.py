"""`soler1 convert`: the command, killed and started again, and mistakes in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soler1_jax import cli
from soler1_jax.tokenizers.wording import WORDING

CHECKPOINT = Path(__file__).parents[1] / "qwen3_vl/checkpoint"


def test_there_and_back(tmp_path: Path, capsys) -> None:
    made, back = tmp_path / "made", tmp_path / "back"
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"templates": {"external_from_zero": "{task}?"}}))
    cli.main(["convert", str(CHECKPOINT), str(made), "--prompt", str(words)])
    cli.main(["convert", str(made), str(back), "--to", "hf", "--shard-gb", "2e-5"])
    cli.main(["convert", str(CHECKPOINT), str(made), "--prompt", str(words)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{made}: 64 tensors, 0.0 MB, ")
    assert lines[2].endswith("there already")
    assert len(list(back.glob("model-*-of-00003.safetensors"))) == 3
    assert json.loads((back / WORDING).read_text())["templates"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["nothing", "made"], "nothing"),
        ([str(CHECKPOINT), "made", "--to", "hf"], "--to hf"),
        ([str(CHECKPOINT), "made", "--shard-gb", "0"], "--shard-gb"),
        ([str(CHECKPOINT), "made", "--prompt", "none.json"], "none.json"),
        ([str(CHECKPOINT), str(CHECKPOINT)], "outside the old one"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch, capsys, options: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("soler1: ") and word in line
    assert not list(tmp_path.iterdir())


# Stops in the middle of the weights, and says so.
HALTED = """
import sys, time
from soler1_jax.checkpoints import convert

def halt(written, total):
    if 0.4 < written / total < 0.9:
        print("halted", flush=True)
        time.sleep(600)

convert.convert(sys.argv[1], sys.argv[2], report=halt)
"""


def test_a_killed_conversion_leaves_no_folder_and_can_be_repeated(
    tmp_path: Path, capsys
) -> None:
    made = tmp_path / "made"
    command = [sys.executable, "-c", HALTED, str(CHECKPOINT), str(made)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    try:
        assert process.stdout.readline() == b"halted\n"
        with pytest.raises(SystemExit):
            cli.main(["convert", str(CHECKPOINT), str(made)])
        assert "one process at a time" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".made.part"]
    assert list((tmp_path / ".made.part").rglob("c"))
    cli.main(["convert", str(CHECKPOINT), str(made)])
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    whole = tmp_path / "whole"
    cli.main(["convert", str(CHECKPOINT), str(whole)])
    files = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (made, whole)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_memory_of_the_process(tmp_path: Path) -> None:
    """Converting 1.2 GB needs little more than converting nothing does."""
    big = tmp_path / "big"
    subprocess.run([sys.executable, "-c", MAKE, str(big)], check=True)
    peaks = [
        _peak(CHECKPOINT, tmp_path / "small-made"),
        _peak(big, tmp_path / "made"),
        _peak(tmp_path / "made", tmp_path / "back", "--to", "hf"),
    ]
    assert max(peaks) < peaks[0] + 400e6, peaks


# One layer of the smallest model, with a vocabulary of 150 million words.
MAKE = """
import json, pathlib, sys
import numpy as np
from soler1_jax.checkpoints.hf_config import from_hf
from soler1_jax.checkpoints.hf_names import tensors
from soler1_jax.checkpoints.safetensors_files import SINGLE, NewTensor, write_file

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
"""


def _peak(*arguments: object) -> float:
    """Most bytes that a process held."""
    program = (
        "import resource, sys; from soler1_jax.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    command = [sys.executable, "-c", program, "convert", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.splitlines()[-1])
