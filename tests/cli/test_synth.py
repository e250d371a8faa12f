"""`soler1 synth` refuses impossible requests in one line, before any simulation."""

import pytest

from soler1_jax import cli


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--episodes", "-3"], "episodes"),
        (["--episodes", "0"], "episodes"),
        (["--seed", "-1"], "seed"),
        (["--worlds", "0"], "worlds"),
        (["--mix", "1,2,3"], "mix"),
        (["--mix", "lots"], "mix"),
    ],
)
def test_impossible_requests_end_in_one_line(tmp_path, capsys, options, word):
    out = tmp_path / "data"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["synth", "--out", str(out), *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("soler1:") and word in line
    assert not out.exists()


def test_a_file_in_the_way_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["synth", "--out", str(tmp_path / "file"), "--episodes", "1"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
