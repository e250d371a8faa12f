"""Jobs from start to result, and a killed command that continues."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from soler1_jax.common.run import Run
from soler1_jax.reward import baselines
from soler1_jax.rl import policies
from soler1_jax.rl.chunk import ChunkConfig
from soler1_jax.rl.drqv2 import DrQConfig, make_drqv2
from soler1_jax.rl.runs import Job, RunsConfig, run_jobs
from soler1_jax.rl.train import Trainer
from soler1_jax.rl.types import shapes_of

EPISODE = ChunkConfig(every=2, queries=2)
AGENT = DrQConfig(worlds=4, updates=3, batch=8, capacity=3, hidden=8)
CONFIG = RunsConfig(iterations=4, episodes=8, save_seconds=0.0)
JOBS = [Job("reach", 0, "reach it", 0), Job("leave", 1, "leave it", 5)]


@pytest.fixture
def trainer(toy_reach):
    env = toy_reach()
    agent = make_drqv2(AGENT, shapes_of(env), EPISODE.steps)
    return Trainer(env, baselines.oracle(), agent, EPISODE, jax.devices()[:1])


def lines(run: Run) -> list[dict]:
    text = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in text]


def without_times(rows: list[dict]) -> list[dict]:
    timed = ("seconds", "learning_seconds")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def test_policies_are_kept_on_the_way(trainer, tmp_path):
    run = Run(tmp_path, "rl", {})
    run_jobs(trainer, JOBS, dataclasses.replace(CONFIG, keep_every=3), run)
    kept = policies.find((tmp_path / "policies",))
    ends = [f"{j.task}-seed{j.seed}-{i:04d}.npz" for j in JOBS for i in (3, 4)]
    assert sorted(path.name for path in kept) == sorted(ends)
    early, late = (policies.load(tmp_path / "policies" / name) for name in ends[:2])
    assert early.task == "reach" and early.image_size == 16
    assert np.abs(early.params["actor"][0]["weight"]).sum() > 0
    moved = early.params["actor"][0]["weight"] - late.params["actor"][0]["weight"]
    assert np.abs(moved).max() > 0


def test_a_killed_command_continues_to_the_same_result(trainer, tmp_path, monkeypatch):
    whole = Run(tmp_path / "whole", "rl", {})
    kept = []
    expected = run_jobs(trainer, JOBS, CONFIG, whole, lambda *what: kept.append(what))
    assert [(job.task, stage) for job, stage, _ in kept] == [
        ("reach", "before"),
        ("reach", "after"),
        ("leave", "before"),
        ("leave", "after"),
    ]
    assert kept[0][2].predicted.shape == (3, 4)

    run = Run(tmp_path / "cut", "rl", {})
    learn, calls = trainer.learn, []

    def killed(state, work):
        calls.append(1)
        if len(calls) in (3, 8):
            # What it wrote after its last snapshot must not stay.
            run.log(99, {"group": "oracle-0" if len(calls) == 3 else "oracle-1"})
            raise KeyboardInterrupt
        return learn(state, work)

    monkeypatch.setattr(trainer, "learn", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_jobs(trainer, JOBS, CONFIG, run)
    found = run_jobs(trainer, JOBS, CONFIG, run)
    # Two interrupted calls beside the eight that counted.
    assert len(calls) == 10
    assert without_times(lines(run)) == without_times(lines(whole))
    for one, other in zip(found, expected, strict=True):
        assert one.after == other.after and one.before == other.before
        assert without_times(one.curve) == without_times(other.curve)
        assert one.env_steps == 4 * 4 * 4 and one.queries == 4 * 4 * 2
    assert not list(run.folder.glob("groups/*.npz"))
    monkeypatch.setattr(trainer, "learn", None)
    again = run_jobs(trainer, JOBS, CONFIG, run)
    assert [r.after for r in again] == [r.after for r in expected]


def test_curves_hold_plain_numbers(trainer, tmp_path):
    run = Run(tmp_path, "rl", {})
    result = run_jobs(trainer, JOBS[:1], CONFIG, run)[0]
    assert [row["env_steps"] for row in result.curve] == [16, 32, 48, 64]
    assert all(np.isfinite(list(row.values())).all() for row in result.curve)
