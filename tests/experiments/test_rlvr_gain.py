"""What reinforcement learning gained is told seed by seed, and kinds stay apart."""

import json

import pytest


@pytest.fixture
def gain(load):
    return load("rlvr_gain")


def test_gains_are_differences_to_the_same_weights(gain):
    before = {"episodes": 400, "mae": 6.0, "claim_state": 0.8}
    rows = [{**before, "mae": mae} for mae in (5.5, 5.0, 4.5)]
    found = gain.gained(before, rows)
    assert found["mae"] == {"seeds": [-0.5, -1.0, -1.5], "mean": -1.0, "spread": 0.5}
    assert found["claim_state"]["mean"] == 0 and "episodes" not in found
    assert gain.gained(before, rows[:1])["mae"]["spread"] is None


def test_a_kind_that_a_call_leaves_out_stays(gain, tmp_path, monkeypatch):
    calls = []

    def train(args, kind, folder, seed):
        folder.mkdir(parents=True)
        (folder / "env.json").write_text("{}")
        calls.append((kind, seed))

    def judged(args, folder, model):
        return {"episodes": 1, "mae": 6.0 - len(calls)}

    monkeypatch.setattr(gain, "train", train)
    monkeypatch.setattr(gain, "judged", judged)
    given = {"runs": tmp_path / "runs", "out": tmp_path / "out.json", "seeds": 2}
    gain.main(gain.Args(kind=("rlvr",), **given))
    kept = json.loads((tmp_path / "out.json").read_text())["rlvr"]
    gain.main(gain.Args(kind=("supervised",), **given))
    table = json.loads((tmp_path / "out.json").read_text())
    assert table["rlvr"] == kept and len(table["supervised"]["seeds"]) == 2
    assert calls == [(k, s) for k in ("rlvr", "supervised") for s in (1, 2)]
    other = json.loads((tmp_path / "out.json").read_text()) | {"weights": "others"}
    (tmp_path / "out.json").write_text(json.dumps(other))
    gain.main(gain.Args(kind=("rlvr",), **given | {"runs": tmp_path / "again"}))
    assert "supervised" not in json.loads((tmp_path / "out.json").read_text())
