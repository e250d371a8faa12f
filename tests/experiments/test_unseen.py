"""Rows of unseen tasks are kept, replaced and summed up as the table says."""

import json

import numpy as np
import pytest

from soler1_jax.common.errors import UserError


@pytest.fixture
def unseen(load, monkeypatch, tmp_path):
    """The experiment, with policies that end at a success that the test sets."""
    module = load("unseen")
    module.ends = {}

    def learned(args):
        groups = args.out / "groups"
        groups.mkdir(parents=True, exist_ok=True)
        for seed in range(args.seeds):
            rows = [policy(t, seed, module.ends[args.rewarder, t]) for t in args.task]
            (groups / f"{args.rewarder}-{seed}.json").write_text(json.dumps(rows))

    monkeypatch.setattr(module.rl, "run", learned)
    return module


def policy(task, seed, success):
    after = {"true_success": success + 0.1 * seed, "true_progress": 0.5}
    after["perceived_success"] = 0.6
    step = {"env_steps": 2560, "quiet_success": 0.25, "quiet_perceived": 0.5}
    curve = [step, step | {"env_steps": 5120}]
    return {
        "task": task,
        "seed": seed,
        "env_steps": 5120,
        "queries": 512,
        "before": {"true_success": 0.0},
        "after": after,
        "curve": curve,
    }


def test_rows_that_a_call_leaves_out_stay(unseen, tmp_path):
    out = tmp_path / "unseen.json"
    reach, touch = "reach-red-cube", "touch-purple-ball"

    def measure(rewarder, task, success):
        unseen.ends[rewarder, task] = success
        runs = tmp_path / f"runs-{rewarder}-{task}-{success}"
        unseen.main(
            unseen.Args(task=(task,), rewarder=(rewarder,), seeds=2, runs=runs, out=out)
        )
        return json.loads(out.read_text())["rewarders"]

    measure("nano", reach, 0.2)
    measure("time", reach, 0.0)
    found = measure("nano", touch, 0.7)
    assert [row["task"] for row in found["nano"]["tasks"]] == [reach, touch]
    assert [row["task"] for row in found["time"]["tasks"]] == [reach]
    assert found["nano"]["families"] == 2
    assert found["nano"]["mean_success"] == pytest.approx((0.25 + 0.75) / 2)
    assert found["nano"]["learned_share"] == 0.5
    assert found["nano"]["largest_gap"] == pytest.approx(0.1)
    assert found["time"]["mean_success"] == pytest.approx(0.05)

    again = measure("nano", reach, 0.8)["nano"]
    assert [row["true_success"] for row in again["tasks"]] == [
        pytest.approx([0.8, 0.9]),
        pytest.approx([0.7, 0.8]),
    ]
    assert again["learned_share"] == 1.0


def test_rows_with_caution_are_kept_apart(unseen, tmp_path):
    unseen.ends["nano", "reach-red-cube"] = 0.5
    for caution in (0.0, 1.0):
        args = unseen.Args(
            task=("reach-red-cube",),
            rewarder=("nano",),
            seeds=1,
            caution=caution,
            runs=tmp_path,
            out=tmp_path / "unseen.json",
        )
        unseen.main(args)
    found = json.loads((tmp_path / "unseen.json").read_text())["rewarders"]
    assert set(found) == {"nano", "nano-caution-1"}


def test_the_picture_shows_every_task(load, unseen, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    drawing = load("unseen_figure")
    tasks = ("reach-red-cube", "touch-purple-ball")
    out = tmp_path / "unseen.json"
    unseen.ends = {(r, t): 0.5 for r in ("nano", "oracle") for t in tasks}
    unseen.main(
        unseen.Args(
            task=tasks, rewarder=("nano", "oracle"), seeds=2, runs=tmp_path, out=out
        )
    )
    picture = tmp_path / "unseen.png"
    drawing.main(drawing.Args(figures=out, out=picture))
    from PIL import Image

    image = np.asarray(Image.open(picture).convert("RGB"))
    for color in ("nano", "oracle"):
        wanted = [int(drawing.COLORS[color][i : i + 2], 16) for i in (1, 3, 5)]
        assert (image == wanted).all(-1).sum() > 50
    with pytest.raises(UserError, match="must exist"):
        drawing.main(drawing.Args(figures=tmp_path / "none.json"))


def test_running_means_are_of_the_last_iterations(load):
    drawing = load("unseen_figure")
    values = np.random.default_rng(0).random((3, 30))
    found = drawing.running_mean(values)
    for i in range(30):
        window = values[:, max(0, i + 1 - drawing.WINDOW) : i + 1]
        np.testing.assert_allclose(found[:, i], window.mean(1))


def test_what_is_grasped_is_learned_by_drqv2(unseen, tmp_path):
    tasks = ("lift-red-cube", "reach-red-cube", "place-orange-cube")
    asked = []
    unseen.ends = {("nano", t): 0.5 for t in tasks}
    fake = unseen.rl.run
    unseen.rl.run = lambda args: (asked.append(args), fake(args))
    out = tmp_path / "unseen.json"
    unseen.main(
        unseen.Args(task=tasks, rewarder=("nano",), seeds=1, runs=tmp_path, out=out)
    )
    assert {args.algo: args.task for args in asked} == {
        "drqv2": ("lift-red-cube", "place-orange-cube"),
        "ppo": ("reach-red-cube",),
    }
    assert len({args.out for args in asked}) == 2
    rows = json.loads(out.read_text())["rewarders"]["nano"]["tasks"]
    assert [row["algo"] for row in rows] == ["drqv2", "ppo", "drqv2"]
    defaults = unseen.by_agent(unseen.Args().task)
    assert sum(map(len, defaults.values())) == len(unseen.Args().task)
