"""The ablations cover all families, and a variant differs as it says it does."""

import json

import pytest

from soler1_jax.cli import synth
from soler1_jax.envs import tasks


@pytest.fixture(scope="module")
def ablations(load):
    return load("ablations")


def test_families_are_those_of_the_tasks(ablations):
    assert sorted(ablations.FAMILIES) == sorted({t.family for t in tasks.TASKS})


def test_a_change_has_its_own_folder(ablations):
    seeing = [v.see for v in ablations.VARIANTS.values() if v.see is not None]
    names = {json.dumps(s, sort_keys=True): ablations._called("see", s) for s in seeing}
    assert len(set(names.values())) == len(names)


@pytest.mark.slow
def test_variants_are_trained_judged_and_kept_apart(ablations, tmp_path):
    for name, split, seed in (
        ("train", "train", 1),
        ("exam", "train", 2),
        ("test", "unseen", 3),
    ):
        synth.run(
            synth.Args(
                out=tmp_path / "data" / name, episodes=12, split=split, seed=seed
            )
        )
    wanted = ("pico", "previous shown")
    args = ablations.Args(
        variant=wanted,
        data=tmp_path / "data",
        runs=tmp_path / "runs",
        perception_steps=2,
        compare_steps=1,
        progress_steps=2,
        test_episodes=4,
        out=tmp_path / "found.json",
    )
    ablations.main(args)
    rows = json.loads(args.out.read_text())["variants"]
    assert set(rows) == set(wanted)
    small, told = (rows[name]["0"] for name in wanted)
    assert small["parameters"] < told["parameters"]
    assert set(told["readouts"]) == {"glance", "expected", "greedy"}
    # Only a model that is told its previous answer can copy it.
    assert small["readouts"]["glance"]["copy_slope"] == 0
    assert told["readouts"]["glance"]["copy_slope"] != 0
