"""`soler1 eval` and `soler1 report`: figures, a page, one line for each mistake."""

import dataclasses
import json

import numpy as np
import pytest

from soler1_jax import cli
from soler1_jax.data import records
from soler1_jax.evals import rewarder as evals


def _episode(index, split):
    rng = np.random.default_rng(index)
    facts = np.zeros((9, len(records.FACTS)), np.float32)
    progress = np.linspace(0, 100 * (index % 2) or 40, 9) + rng.normal(size=9)
    facts[:, records.FACTS.index("progress")] = np.clip(progress, -100, 100)
    facts[:, records.FACTS.index("success")] = progress > 95
    frames = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
    return records.Episode(
        name=f"{split}-{index}",
        task="lift-red-cube",
        sentence="lift the red cube",
        family="lift" if index % 3 else "door",
        verb="lift",
        noun="cube",
        split=split,
        level=0,
        stride=5,
        external=frames,
        wrist=frames,
        semantic=np.zeros((9, 16, 16), np.uint8),
        wrist_semantic=np.zeros((9, 16, 16), np.uint8),
        names=("",) * 8,
        named=2,
        colors=np.zeros(8, np.int32),
        shapes=np.zeros(8, np.int32),
        facts=facts,
        queries=(),
    )


@pytest.fixture(autouse=True)
def _stored_episodes(monkeypatch):
    """Episodes without a simulator, which takes minutes to compile."""
    monkeypatch.setattr(
        evals,
        "evaluation_episodes",
        lambda folder, split, count, seed: [_episode(i, split) for i in range(count)],
    )


def _eval(*words):
    cli.main(["eval", *map(str, words)])


def test_a_rewarder_is_reported_beside_its_controls(tmp_path, capsys):
    out = tmp_path / "out"
    counts = ("--episodes", 10, "--seen-episodes", 6)
    _eval("rewarder", "--rewarder", "oracle", "--out", out, *counts)
    result = json.loads((out / "result.json").read_text())
    assert result["mae"] == 0 and result["pearson"] == pytest.approx(1)
    assert result["splits"]["unseen"]["episodes"] == 10
    assert result["splits"]["train"]["episodes"] == 6
    for control in result["controls"]["unseen"].values():
        assert control["mae"] > 1
    assert set(result["controls"]["unseen"]) == {"random", "time", "frozen", "zero"}
    page = (out / "report.html").read_text()
    for word in ("control: frozen", "Per family", "smallest error", "door"):
        assert word in page, word
    assert "frozen" in capsys.readouterr().out
    assert len(list((out / "episodes").glob("*.npz"))) == 6
    again = tmp_path / "again.html"
    cli.main(["report", str(out), "--out", str(again)])
    assert again.read_text() == page


def test_thoughts_reach_the_page_with_their_verdicts(tmp_path, monkeypatch):
    from soler1_jax.reward import baselines, load

    def talkative():
        quiet = baselines.oracle()

        def score(*inputs):
            state, verdict = quiet.score(*inputs)
            tokens = np.ones((verdict.progress.shape[0], 1), np.int32)
            return state, dataclasses.replace(verdict, tokens=tokens)

        said = "<think> gripper farther, progress up </think><answer>+040</answer>"
        return quiet.replace(score=score, decode=lambda tokens: said, name="talk")

    monkeypatch.setattr(
        load,
        "load_rewarder",
        lambda spec, settings=None: (
            talkative() if spec == "talk" else getattr(baselines, spec)()
        ),
    )
    words = ("--episodes", 8, "--seen-episodes", 0, "--out", tmp_path / "out")
    _eval("rewarder", "--rewarder", "talk", *words)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(result["samples"]) == 50
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<span class="chip wrong" title="truth: same">motion: farther' in page
    assert '<span class="chip right" title="truth: up">trend: up' in page
    assert "stated number" in page


@pytest.fixture
def tiny(tmp_path):
    """The folder of an untrained model."""
    from soler1_jax.checkpoints.store import save_model
    from soler1_jax.model.functional import functional
    from soler1_jax.model.presets import micro
    from soler1_jax.tokenizers.sentencepiece import train_tokenizer

    words = tmp_path / "tokenizer.model"
    tokenizer = train_tokenizer(["lift the red cube"] * 8, words, 160)
    model, params = functional(micro(tokenizer.vocab_size), seed=3)
    save_model(tmp_path / "m", model.config, params, tokenizer, {})
    return tmp_path / "m"


@pytest.mark.slow
def test_an_attack_keeps_figures_and_pictures_of_the_worst_states(
    tmp_path, tiny, capsys
):
    out, task = tmp_path / "out", "push-left-red-cube"
    counts = ("--worlds", 1, "--candidates", 20, "--rounds", 1)
    _eval("attack", "--rewarder", tiny, "--task", task, "--out", out, *counts)
    result = json.loads((out / "result.json").read_text())
    assert result["states"] == result["tasks"][task]["states"] == 20
    assert -100 <= result["worst_true"] <= 100
    assert [f.name for f in (out / "episodes").iterdir()] == [f"{task}-0.npz"]
    page = (out / "report.html").read_text()
    assert f"{task}: said" in page and "push the red cube" in page
    assert "false per 1000" in capsys.readouterr().out


@pytest.mark.slow
def test_probes_of_a_model_hold_films_frames_and_positions(tmp_path, tiny, capsys):
    out = tmp_path / "out"
    counts = ("--episodes", 3, "--batch", 3)
    _eval("probes", "--rewarder", tiny, "--out", out, *counts)
    result = json.loads((out / "result.json").read_text())
    for split in ("unseen", "train"):
        films, frames = result[split]["films"], result[split]["frames"]
        assert films["without wrist view"] != films["as it is"]
        as_is = frames["first and previous as they are"]
        assert as_is["mae"] == pytest.approx(films["as it is"]["mae"], abs=0.05)
        assert frames["first of another episode"]["mae"] != as_is["mae"]
        places = result[split]["localisation"]
        assert places["all"]["frames"] == 27
        assert places["all"]["named"]["mean_mm"] > 0
        assert places["without the wrist's view"] != places["all"]
        # It claims nothing that could be edited.
        assert result[split]["edited thoughts"] == {}
    assert "distance from the truth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["probes", "--rewarder", "oracle"], "model"),
        (["probes", "--episodes", "-1"], "episodes"),
        (["probes", "--edited-episodes", "0"], "edited"),
        (["attack", "--rewarder", "oracle"], "deceived"),
        (["attack", "--candidates", "3"], "candidates"),
        (["attack", "--task", "lift-red-cub"], "lift-red-cube"),
        (["rewarder", "--episodes", "0"], "episodes"),
        (["rewarder", "--seed", "-3"], "negative"),
        (["rewarder", "--batch", "0"], "batch"),
        (["rewarder", "--rewarder", "orakel"], "oracle"),
        (["videos", "nowhere", "--rewarder", "time"], "folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        _eval(*words, "--out", tmp_path / "out")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message in said


def test_videos_are_compared_with_their_truth(tmp_path, capsys):
    import av

    curve = np.linspace(0, 100, 12).round()
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=2)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for level in curve:
            frame = np.full((32, 64, 3), int(level) * 2, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    truth = {"task description": "lift", "ground-truth rewards": curve.tolist()}
    (tmp_path / "a.ground_truth.json").write_text(json.dumps(truth))
    out = tmp_path / "out"
    _eval("videos", tmp_path, "--rewarder", "time", "--count", 9, "--out", out)
    result = json.loads((out / "result.json").read_text())
    assert result["summary"]["time"]["pearson"] > 0.99
    assert "time: mean Pearson" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "e0-wrist" in page and "a: lift" in page
