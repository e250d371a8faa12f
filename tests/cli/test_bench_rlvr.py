"""`soler1 bench rlvr`: what it counts and what it refuses."""

import json

import pytest
from packed_cases import config as tiny_config

from soler1_jax import cli
from soler1_jax.cli import bench, bench_ceilings, bench_generate


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "0"], "prompts must be positive"),
        (["--group", "1"], "got --group 1; give 2 or more"),
        (["--new-tokens", "1"], "room for 2 tokens or more; got 1"),
        (["--top-p", "0"], "share of probability; got 0"),
        (["--preset", "smal"], "did you mean 'small'"),
        (["--picture-side", "400"], "multiple of 32"),
        (["--repeats", "0"], "repeats must be positive"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "rlvr", *words, "--out", str(out)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_both_halves_of_a_step_are_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench_generate.PRESETS, "tiny", tiny_config())
    monkeypatch.setattr(bench_ceilings, "matmul_ceiling", lambda *_, **__: 1e9)
    args = bench.Rlvr(
        out=tmp_path,
        preset="tiny",
        prompts=2,
        group=3,
        prompt_tokens=24,
        new_tokens=6,
        pictures=2,
        picture_side=16,
        repeats=2,
    )
    bench.run(args)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    write, learn, both = rows
    assert [row["part"] for row in rows] == ["write", "learn", "both"]
    for row in rows:
        # a completion may end early by the stop token
        assert 6 <= row["new_tokens_per_second"] * row["seconds"] <= 36.1, row
        assert row["rewards_per_second"] == pytest.approx(6 / row["seconds"], rel=0.02)
    assert both["seconds"] == pytest.approx(
        write["seconds"] + learn["seconds"], rel=0.3
    )
    # one graph writes and learns, in float32
    assert both["mismatch_nats"] < 1e-5
    assert "rewards/s" in capsys.readouterr().out
