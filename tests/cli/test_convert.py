"""`soler1 convert`: the command, killed and started again, and mistakes in one line."""

import json
import os
import signal
import subprocess
import sys
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
    assert lines[0].startswith(f"{made}: 64 tensors, 0.05 MB, ")
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
    """Gigabytes need hardly more memory than a few kilobytes do."""
    big = tmp_path / "big"
    command = [sys.executable, "-c", MAKE, str(CHECKPOINT), str(big)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    least = _peak(CHECKPOINT, tmp_path / "small")
    there = _peak(big, tmp_path / "made")
    back = _peak(tmp_path / "made", tmp_path / "back", "--to", "hf")
    # The largest stack alone has 768 MB.
    assert int(made.stdout) > 2.4e9
    assert max(there, back) < least + 400e6


# The smallest model, with more words, layers and channels; in pieces, as all is here.
MAKE = """
import json, math, pathlib, sys
import numpy as np
from soler1_jax.checkpoints.hf_config import from_hf, read_hf_json
from soler1_jax.checkpoints.hf_names import tensors
from soler1_jax.checkpoints.safetensors_files import SINGLE, NewTensor, write_file

data = read_hf_json(sys.argv[1])
data["text_config"] |= {"vocab_size": 2_000_000, "intermediate_size": 1_000_000}
data["text_config"]["num_hidden_layers"] = 12
folder = pathlib.Path(sys.argv[2])
folder.mkdir()
(folder / "config.json").write_text(json.dumps(data))
made = [NewTensor(t.name, t.shape, np.dtype("f4")) for t in tensors(from_hf(data))]
block = np.ones(10**6, np.float32)

def pieces(tensor):
    left = math.prod(tensor.shape)
    while left:
        yield block[:left]
        left -= min(left, len(block))

write_file(folder / SINGLE, made, pieces)
print(sum(tensor.nbytes for tensor in made))
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
