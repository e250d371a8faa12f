"""`soler1 sft` and `soler1 rlvr` refuse what cannot work, in one line."""

import dataclasses

import numpy as np
import pytest

from soler1_jax.cli import main
from soler1_jax.data import records, source, text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of two episodes of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("data")
    query = records.Query(
        source="progress",
        first=0,
        prev=0,
        cur=1,
        prompt="lift the red cube",
        completion=text.progress_completion("gripper nearer", 10),
        progress=10,
        previous=0,
        claims={"motion": "nearer"},
    )
    episodes = [
        records.Episode(
            name=f"episode-{i}",
            task="lift-red-cube",
            sentence="lift the red cube",
            family="lift",
            verb="lift",
            noun="cube",
            split="train",
            level=0,
            stride=5,
            external=np.zeros((2, 16, 16, 3), np.uint8),
            wrist=np.zeros((2, 16, 16, 3), np.uint8),
            semantic=np.zeros((2, 16, 16), np.uint8),
            wrist_semantic=np.zeros((2, 16, 16), np.uint8),
            names=("", "gripper", "red cube", "", "", "", "", ""),
            named=2,
            colors=np.zeros(8, np.int32),
            shapes=np.zeros(8, np.int32),
            facts=np.zeros((2, len(records.FACTS)), np.float32),
            queries=(query,),
        )
        for i in range(2)
    ]
    source.write_shard(source.shard_path(folder, "train", 0, 1), episodes)
    source.write_metadata(folder, "train", records.features(2, 16), 1)
    return folder


@pytest.fixture(scope="module")
def wordy(data, tmp_path_factory):
    """The same episodes with a longer thought."""
    folder = tmp_path_factory.mktemp("wordy")
    said = text.progress_completion("gripper nearer, cube still, reach first", 10)
    episodes = []
    for episode in map(source.open_source(data).__getitem__, range(2)):
        queries = [dataclasses.replace(q, completion=said) for q in episode.queries]
        episodes.append(dataclasses.replace(episode, queries=tuple(queries)))
    source.write_shard(source.shard_path(folder, "train", 0, 1), episodes)
    source.write_metadata(folder, "train", records.features(2, 16), 1)
    return folder


@pytest.mark.parametrize("thoughts", ["--thoughts", "--no-thoughts"])
def test_sft_is_examined_on_longer_texts_than_it_learns_from(
    data, wordy, tmp_path, thoughts
):
    steps = ["--perception-steps", 0, "--compare-steps", 0, "--progress-steps", 1]
    arguments = ["--model", "micro", "--episodes", 2, *steps, "--queries", 1, thoughts]
    arguments += ["--data", data, "--exam", wordy, "--out", tmp_path / "run"]
    main([str(a) for a in ["sft", *arguments]])
    assert (tmp_path / "run" / "model" / "weights.npz").exists()


def _refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("soler1: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nanoo"], "nano"),
        (["--model", "nano"], "64x64"),
        (["--model", "micro", "--episodes", "3"], "3 episodes"),
        (["--model", "micro", "--episodes", "0"], "episodes must be positive"),
        (["--model", "micro", "--mesh", "3,1,1"], "mesh"),
        (["--model", "micro", "--mixture", "salad"], "mixture"),
        (["--model", "micro", "--progress-steps", "-5"], "progress_steps"),
        (["--model", "micro", "--previous", "2"], "--previous"),
        (["--model", "micro", "--tokenizer", "none.model"], "none.model"),
        (["--model", "micro", "--exam", "nowhere"], "nowhere"),
        (["--model", "micro", "--learning-rate", "0"], "learning rate"),
    ],
)
def test_sft_refuses(data, tmp_path, capsys, options, words):
    base = ["sft", "--data", data, "--out", tmp_path, "--perception-episodes", 2]
    assert words in _refused(capsys, *base, "--episodes", 2, *options)


def test_sft_needs_a_data_set(tmp_path, capsys):
    message = _refused(capsys, "sft", "--data", tmp_path, "--out", tmp_path / "run")
    assert "data folder" in message and "soler1 synth" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group", "1"], "--group 1"),
        (["--tau", "0"], "--tau"),
        (["--steps", "0"], "--steps"),
        (["--temperature", "0"], "--temperature"),
        (["--clip-low", "2"], "--clip-low 2"),
        (["--correction-cap", "0.5"], "--correction-cap"),
        ([], "a model is a folder"),
    ],
)
def test_rlvr_refuses(data, tmp_path, capsys, options, words):
    base = ["rlvr", "--data", data, "--out", tmp_path / "run"]
    message = _refused(capsys, *base, "--model", tmp_path / "none", *options)
    assert words in message
