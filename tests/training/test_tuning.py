"""`soler1 sft-vlm` and `rlvr-vlm`: from a released folder to one that can be asked."""

import json

import jax
import numpy as np
import pytest
import tiny_released

from soler1_jax.cli import main
from soler1_jax.reward.load import load_rewarder
from soler1_jax.reward.pretrained import load_vlm

SMALL = ["--rows", "2", "--tokens", "224", "--log-every", "1", "--warmup-steps", "2"]
SMALL += ["--learning-rate", "1e-2", "--views", "external", "--no-remat"]


GRPO = ["--prompts", "4", "--group", "3", "--length", "40", "--views", "external"]
GRPO += ["--learning-rate", "1e-3", "--warmup-steps", "1", "--no-remat"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return tiny_released.write(tmp_path_factory.mktemp("released") / "tiny")


def _metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _weights(folder):
    params = load_vlm(folder, "float32").params
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in found}


@pytest.fixture(scope="module")
def taught(released, data_folder, tmp_path_factory):
    """A run that learnt the form of answers, and its command."""
    out = tmp_path_factory.mktemp("taught") / "run"
    command = ["sft-vlm", "--model", str(released), "--data", str(data_folder)]
    command += [
        "--exam",
        str(data_folder),
        "--exam-batches",
        "2",
        "--watch-every",
        "30",
    ]
    command += ["--out", str(out), "--steps", "60", "--mixture", "progress", *SMALL]
    main(command)
    return out, command


def test_a_model_learns_and_can_be_asked(released, taught):
    out, command = taught
    rows = [row for row in _metrics(out) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    exams = [row["exam_loss"] for row in _metrics(out) if "exam_loss" in row]
    assert len(exams) == 2 and exams[1] < exams[0]
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == 60
    before, after = _weights(released), _weights(out / "model")
    assert before.keys() == after.keys()
    moved = [not np.allclose(before[k], after[k], atol=1e-4) for k in before]
    assert np.mean(moved) > 0.9
    rewarder = load_rewarder(out / "model")
    assert rewarder.views == ("external", "wrist")
    # the same command has nothing left to do
    main(command)
    assert [row["step"] for row in _metrics(out) if "loss" in row] == list(range(1, 61))


def test_rewards_improve_what_was_taught(taught, data_folder, tmp_path):
    out = tmp_path / "run"
    main(
        ["rlvr-vlm", "--model", str(taught[0] / "model"), "--data", str(data_folder)]
        + ["--exam", str(data_folder), "--exam-batches", "2", "--watch-every", "10"]
        + ["--out", str(out), "--steps", "10", "--kl", "0.01", *GRPO]
    )
    rows = [row for row in _metrics(out) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    first = rows[0]
    parts = first["reward_form"] + first["reward_accuracy"] + first["reward_claims"]
    assert first["reward"] == pytest.approx(parts, abs=1e-5)
    assert 0.3 < first["reward_form"] <= 0.5 and first["reward_claims"] == 0
    # the model that wrote is the one that learns
    assert first["mismatch"] < 1e-3 and first["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 0
    (exam,) = [row for row in _metrics(out) if "exam_mae" in row]
    assert exam["exam_parsed"] > 0.9 and exam["exam_mae"] < 40
    before, after = _weights(taught[0] / "model"), _weights(out / "model")
    assert any(not np.array_equal(before[k], after[k]) for k in before)


def test_factors_are_folded_into_the_model(released, data_folder, tmp_path):
    out = tmp_path / "run"
    main(
        ["sft-vlm", "--model", str(released), "--data", str(data_folder)]
        + ["--out", str(out), "--steps", "3", "--lora-rank", "2", *SMALL]
        + ["--saved-dtype", "float32"]
    )
    before, after = _weights(released), _weights(out / "model")
    changed = {k.split("'")[-4] for k in before if (before[k] != after[k]).any()}
    attention = {f"{x}_proj" for x in "qkvo"}
    assert changed == attention | {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--model", "nowhere"], "released model is a folder"),
        (["--tokens", "20"], "a row holds 20 tokens"),
        (["--rows", "0"], "rows must be positive"),
        (["--mixture", "oranges=1"], "weights to sources"),
        (["--mixture", "oranges"], "a mixture is a name"),
        (["--steps", "0"], "--steps must be positive"),
        (["--lora-rank", "-1"], "--lora-rank"),
        (["--mesh", "2,2,2"], "product is the device count"),
        (["--microbatches", "3"], "microbatches split a batch"),
        (["--data"], "training needs data"),
    ],
)
def test_mistakes_are_one_line(options, rule, released, data_folder, tmp_path, capsys):
    command = ["sft-vlm", "--model", str(released), "--data", str(data_folder)]
    command += ["--out", str(tmp_path / "run"), "--steps", "2", *SMALL]
    if options == ["--data"]:
        command.remove("--data"), command.remove(str(data_folder))
        options = []
    with pytest.raises(SystemExit) as stopped:
        main([*command, *options])
    assert stopped.value.code == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert rule in errors[-1] and errors[-1].startswith("soler1: ")
    assert not (tmp_path / "run" / "model").exists()
