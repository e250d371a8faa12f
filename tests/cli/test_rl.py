"""What `soler1 rl` refuses in one line, and what its result holds."""

import pytest

from soler1_jax import cli
from soler1_jax.cli import rl
from soler1_jax.rl.runs import JobResult

TASK = "close-drawer"


def refuse(capsys, tmp_path, *options: str) -> str:
    """Runs the command; returns its one line on stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["rl", "--out", str(tmp_path / "run"), *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("soler1: ")
    assert not (tmp_path / "run" / "result.json").exists()
    return said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "close-drawr"], "did you mean 'close-drawer'"),
        (["--task", TASK, TASK], "named once"),
        (["--task", TASK, "--seeds", "-1"], "--seeds must be positive; got -1"),
        (["--task", TASK, "--seed", "-3"], "--seed must not be negative; got -3"),
        (["--task", TASK, "--every", "7"], "must divide"),
        (["--task", TASK, "--worlds", "1"], "at least 2"),
        (["--task", TASK, "--batch", "0"], "--batch must be positive"),
        (["--task", TASK, "--rewarder", "oracel"], "did you mean 'oracle'"),
        (["--task", TASK, "--rewarder", "/no/such/model"], "/no/such/model"),
    ],
)
def test_mistakes_get_one_line(capsys, tmp_path, options, said):
    assert said in refuse(capsys, tmp_path, *options)


@pytest.mark.slow
def test_an_impossible_batch_is_refused(capsys, tmp_path):
    options = ["--task", TASK, "--rewarder", "oracle", "--algo", "ppo"]
    said = refuse(capsys, tmp_path, *options, "--batch", "100000")
    assert "got 100000" in said


def test_a_pods_chips_share_one_policys_worlds(tmp_path):
    args = rl.Args(task=(TASK,), out=tmp_path, worlds=512)
    assert rl._even_share(args, 64) == 64
    assert rl._agent_config(args, 64).quiet == 64
    # 64 worlds are not shared evenly by more of 12
    small = rl.Args(task=(TASK,), out=tmp_path)
    assert rl._even_share(small, 12) == 8
    assert rl._agent_config(small, 8).quiet == 8


def result(task: str, seed: int, group: str, success: float) -> JobResult:
    stage = {
        "true_success": success,
        "perceived_success": success / 2,
        "error": 5.0,
        "parsed": 1.0,
    }
    return JobResult(
        task=task,
        sentence=f"do {task}",
        seed=seed,
        group=group,
        before={**stage, "true_success": 0.0},
        after=stage,
        env_steps=1000,
        queries=200,
        seconds=10.0,
        curve=[],
    )


def test_result_averages_seeds_and_counts_parallel_runs_once(tmp_path):
    args = rl.Args(task=("a", "b"), out=tmp_path, seeds=2)
    found = [result(t, s, f"g{s}", 0.2 + s * 0.6) for s in (0, 1) for t in ("a", "b")]
    content = rl.summarise(args, found, [result("a", 0, "o", 1.0)])
    # Two groups of 10 s, two runs of 1000 steps in each.
    assert content["env_steps_per_second"] == 200
    assert content["queries_per_second"] == 40
    row = content["tasks"]["a"]
    assert row["sentence"] == "do a" and row["seeds"] == 2
    assert row["true_success_before"] == 0
    assert row["true_success_after"] == pytest.approx(0.5)
    assert row["perceived_success_after"] == pytest.approx(0.25)
    assert row["oracle_success"] == 1
    assert content["tasks"]["b"]["oracle_success"] is None
