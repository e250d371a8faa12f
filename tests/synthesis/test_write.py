"""Data sets: shares, splits, reproducibility, resumption and refusals.

The simulator is replaced by a made-up recorder where only the bookkeeping is meant.
"""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import records, source
from soler1_jax.envs.tasks import TASKS, UNSEEN_NOUNS, task_index
from soler1_jax.rl.policies import Policy, save
from soler1_jax.rl.ppo import PPOConfig, make_ppo
from soler1_jax.rl.types import Shapes
from soler1_jax.synthesis import corpus, write
from soler1_jax.synthesis.episodes import Recording
from soler1_jax.synthesis.mistakes import OTHER_TASK, POLICY

SIZE = 16


class MadeUp:
    """Stands in for Recorder: random pictures and facts that depend on the key."""

    calls = 0

    def __init__(self, stride, frames, size, wrist, policies):
        self.frames, self.size, self.wrist = frames, size, wrist

    def record(self, key, task, level, other, policy):
        MadeUp.calls += 1
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        shape = (len(task), self.frames, self.size, self.size)
        facts = rng.uniform(-0.3, 0.3, (*shape[:2], len(records.FACTS)))
        facts[..., records.FACTS.index("progress")] *= 300
        recording = Recording(
            task=task,
            level=level,
            external=rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            wrist=None,
            wrist_semantic=None,
            semantic=rng.integers(0, 8, shape, dtype=np.uint8),
            facts=facts.astype(np.float32),
            other=other,
            other_facts=-facts.astype(np.float32),
        )
        worlds = len(task)
        named = [TASKS[t] for t in task]
        color = rng.integers(0, 6, (worlds, 2))
        shapes = rng.integers(0, 3, (worlds, 2))
        for i, spec in enumerate(named):
            if spec.color is not None:
                color[i, 0] = records.COLORS.index(spec.color)
                shapes[i, 0] = records.SHAPES.index(spec.shape)
        scene = SimpleNamespace(
            present=np.ones((worlds, 2), bool),
            plate_present=np.ones(worlds, bool),
            color=color,
            shape=shapes,
            slide_kind=rng.integers(0, 4, worlds),
            hinge_kind=rng.integers(0, 5, worlds),
        )
        return recording, scene


def config(**change):
    settings = {"episodes": 40, "seed": 5, "worlds": 16, "frames": 4, "size": SIZE}
    return write.SynthConfig(**{**settings, "wrist": False, **change})


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(write, "Recorder", MadeUp)
    MadeUp.calls = 0


def episodes_of(folder):
    data = source.open_source(folder)
    return [data[i] for i in range(len(data))]


def shards(folder):
    return {p.name: p.read_bytes() for p in folder.glob("soler1-*")}


def test_the_same_seed_gives_the_same_bytes(tmp_path, made_up):
    for name in ("a", "b"):
        write.synthesise(tmp_path / name, config())
    write.synthesise(tmp_path / "c", config(seed=6))
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert shards(tmp_path / "a") != shards(tmp_path / "c")
    levels = [e.level for e in episodes_of(tmp_path / "a")]
    assert len(levels) - levels.count(OTHER_TASK) == 40


def test_a_killed_run_continues_to_the_same_bytes(tmp_path, made_up, monkeypatch):
    write.synthesise(tmp_path / "whole", config())
    real, done = source.write_shard, itertools.count()

    def killed(path, episodes):
        if next(done) == 1:
            path.with_name(f".{path.name}.7.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(path, episodes)

    monkeypatch.setattr(write.source, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        write.synthesise(tmp_path / "cut", config())
    with pytest.raises(UserError, match="not complete"):
        source.open_source(tmp_path / "cut")
    monkeypatch.setattr(write.source, "write_shard", real)
    before = MadeUp.calls
    write.synthesise(tmp_path / "cut", config())
    assert MadeUp.calls - before == 2
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".*.tmp"))


def test_a_finished_run_is_not_made_again(tmp_path, made_up):
    first = write.synthesise(tmp_path, config())
    calls = MadeUp.calls
    assert write.synthesise(tmp_path, config()) == first
    assert MadeUp.calls == calls
    with pytest.raises(UserError, match="seed"):
        write.synthesise(tmp_path, config(seed=9))


def test_families_are_told_equally_often_and_levels_follow_the_mix():
    settings = config(worlds=120, mix=(1, 0, 0, 0, 0, 0, 3))
    families, levels = [], []
    for shard in range(10):
        task, level, *_ = write.choose(settings, shard)
        families += [TASKS[t].family for t in task]
        levels += level.tolist()
    once = {"drawer", "button", "window"}
    shares = {f: families.count(f) / (1 + (f in once)) for f in set(families)}
    assert max(shares.values()) - min(shares.values()) <= 10
    assert set(levels) == {0, 6}
    assert levels.count(6) / len(levels) == pytest.approx(0.75, abs=0.06)


def test_training_data_hold_no_unseen_task(tmp_path, made_up):
    write.synthesise(tmp_path, config(episodes=160, worlds=32))
    unseen = [t for t in TASKS if t.split == "unseen"]
    sentences = {s for t in unseen for s in t.phrasings}
    pairs = {(t.verb, t.noun) for t in unseen}
    nouns = {" ".join(noun) for noun in UNSEEN_NOUNS}
    data = source.open_source(tmp_path)
    told = []
    for index in range(len(data)):
        episode = data[index]
        assert episode.split == "train"
        assert (episode.verb, episode.noun) not in pairs
        assert not nouns & set(episode.names)
        told += [q.prompt for q in episode.queries]
        told += [q.completion for q in episode.queries]
    told += list(corpus.corpus(data))
    for line in told:
        assert not any(sentence in line for sentence in sentences), line
        assert not any(noun in line for noun in nouns), line


def test_two_fixture_directions_are_never_trained():
    chosen = [write.choose(config(), s) for s in range(60)]
    trained = {TASKS[t].name for c in chosen for t in (*c.task, *c.other)}
    never = {"close-drawer", "slide-window-left"}
    assert never & trained == set()
    opposites = {"open-drawer", "slide-window-right"}
    assert opposites <= trained
    kept = {
        TASKS[t].name
        for s in range(60)
        for t in write.choose(config(split="unseen"), s)[0]
    }
    assert never <= kept
    assert not kept & trained


def test_runs_are_retold_with_the_same_picture_and_another_verb(tmp_path, made_up):
    write.synthesise(tmp_path, config(episodes=64))
    told = episodes_of(tmp_path)
    again = [e for e in told if e.level == OTHER_TASK]
    assert 20 < len(again) < 64
    for episode in again:
        first = next(e for e in told if f"{e.name}-other" == episode.name)
        np.testing.assert_array_equal(episode.external, first.external)
        assert episode.noun == first.noun and episode.verb != first.verb
        assert {q.source for q in episode.queries} == {"progress"}
        np.testing.assert_array_equal(episode.facts, -first.facts)
        phrasings = TASKS[task_index(episode.task)].phrasings
        assert all(q.prompt in phrasings for q in episode.queries)


def test_runs_for_evaluation_are_not_retold():
    chosen = write.choose(config(split="unseen"), 0)
    np.testing.assert_array_equal(chosen.task, chosen.other)


def test_policies_show_the_task_they_were_learned_for(tmp_path, made_up):
    names = ("lift-red-ball", "open-drawer")
    paths = []
    for name in names:
        paths.append(tmp_path / f"{name}.npz")
        save(paths[-1], policy_for(name))
    settings = config(episodes=32, policies=tuple(map(str, paths)))
    write.synthesise(tmp_path / "data", settings)
    told = episodes_of(tmp_path / "data")
    runs = [e for e in told if not e.name.endswith("-other")]
    assert {e.level for e in runs} == {POLICY} and len(runs) == 32
    assert {e.task for e in runs} == set(names)
    save(paths[0], policy_for("close-drawer"))
    with pytest.raises(UserError, match="unseen"):
        write.synthesise(tmp_path / "other", settings)
    assert not (tmp_path / "other").exists()


def policy_for(task):
    """A policy of random weights."""
    agent = make_ppo(PPOConfig(hidden=8), Shapes((8, 8, 3), 2, 4), 40)
    params = jax.device_get(agent.policy(agent.init(jax.random.key(0))))
    return Policy(task, agent.activation, 8, params)


@pytest.mark.parametrize(
    "change",
    [
        {"episodes": 0},
        {"episodes": -3},
        {"seed": -1},
        {"worlds": 0},
        {"split": "test"},
        {"mix": (1, 2)},
        {"mix": (0,) * 7},
    ],
)
def test_impossible_settings_are_refused_in_one_line(change):
    with pytest.raises(UserError) as error:
        config(**change)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, made_up):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file"):
        write.synthesise(tmp_path / "file" / "data", config())
    with pytest.raises(UserError, match="numbers"):
        write.parse_mix("many")
