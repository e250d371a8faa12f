"""Stages, mixtures and lengths of the curriculum."""

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data.records import SOURCES
from soler1_jax.tokenizers import sentencepiece
from soler1_jax.training import curriculum, materials, optimizer, sft
from soler1_jax.training.memory import Remembered
from soler1_jax.training.supervise import Words


def _words(folder):
    return Words(sentencepiece.Tokenizer(folder / "tokenizer.model"))


def _stages(episodes, words, **settings):
    found = curriculum.lengths(episodes, words, 0.0)
    settings = {"episodes": 4, "perception_episodes": 4, "patch": 4, **settings}
    return curriculum.make_stages(
        episodes,
        words,
        sentencepiece.ANSWER,
        curriculum.CurriculumConfig(**found, **settings),
        sft.SftConfig(),
        lambda loss: loss,
    )


def test_lengths_hold_the_longest_text_and_no_more(episodes, data_folder):
    words = _words(data_folder)
    found = curriculum.lengths(episodes, words, 0.0)
    longest = max(len(words.encode(q.completion)) for q in episodes[0].queries)
    assert found["completion_length"] == longest + 1
    hinted = curriculum.lengths(episodes, words, 0.5)
    assert hinted["prompt_length"] > found["prompt_length"] - 1
    full = curriculum.CurriculumConfig(previous=1.0, episodes=4, patch=4, **hinted)
    stage = _stages(episodes, words, previous=1.0, **{})[-1]
    assert full.batch("progress").previous == 1.0 and stage.name == "progress"


def test_batches_depend_on_the_step_alone(episodes, data_folder):
    stages = _stages(episodes, _words(data_folder))
    assert [s.name for s in stages] == list(curriculum.STAGES)
    again = _stages(episodes, _words(data_folder))
    for one, two in zip(stages, again, strict=True):
        first, second = one.read(7), two.read(7)
        assert all(np.array_equal(first[k], second[k]) for k in first)
        assert not np.array_equal(first["frames"], one.read(8)["frames"])


def test_mixture_decides_the_sources(episodes, data_folder):
    def share(**settings):
        stage = _stages(episodes, _words(data_folder), queries=16, **settings)[-1]
        source = np.concatenate([stage.read(s)["source"] for s in range(8)])
        return (source == SOURCES.index("progress")).mean()

    assert share(mixture=curriculum.MIXTURES["progress"]) == 1
    assert abs(share(mixture=curriculum.MIXTURES["paper"]) - 0.3) < 0.1


def test_stages_without_steps_are_left_out(episodes, data_folder):
    stages = _stages(episodes, _words(data_folder), perception_steps=0)
    assert [s.name for s in stages] == ["compare", "progress"]


def test_learning_rate_rises_once_to_see_and_once_to_be_asked():
    plan = curriculum.CurriculumConfig(
        perception_steps=100, compare_steps=50, progress_steps=150
    )
    config = optimizer.OptimizerConfig(learning_rate=1.0, warmup_steps=10)
    rate = curriculum.learning_rate(config, plan)
    values = np.array([float(rate(i)) for i in range(300)])
    assert values[10] == values[110] == 1 and values[99] < 0.05 > values[299]
    assert values[150] > 0.5, "no second rise between compare and progress"


def test_mixtures_are_parsed():
    assert curriculum.parse_mixture("paper") is curriculum.MIXTURES["paper"]
    assert curriculum.parse_mixture("progress=8,spatial=2") == {
        "progress": 8.0,
        "spatial": 2.0,
        "temporal": 0.0,
    }


@pytest.mark.parametrize("bad", ["papers", "progress=much", "progres=1"])
def test_other_mixtures_are_refused(bad):
    with pytest.raises(UserError):
        curriculum.parse_mixture(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"perception_steps": -1},
        {"perception_steps": 0, "compare_steps": 0, "progress_steps": 0},
        {"previous": 1.5},
        {"seed": -1},
    ],
)
def test_impossible_plans_are_refused(bad):
    with pytest.raises(UserError):
        curriculum.CurriculumConfig(**bad)


def test_memory_reads_each_episode_once(episodes):
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    kept = Remembered(Counting(episodes))
    assert kept[3] is kept[3] and Counting.reads == 1
    assert kept[3].wrist is None
    assert Remembered(episodes, wrist=True)[3].wrist is episodes[3].wrist
    small = Remembered(Counting(episodes), budget=10)
    assert small[0].name == small[0].name and Counting.reads == 3


def test_several_data_sets_are_read_as_one(data_folder, episodes):
    start = materials.Start("micro")
    joined = materials.open_episodes((data_folder, data_folder), start)
    assert len(joined) == 16
    names = [joined[i].name for i in range(16)]
    assert names == 2 * [e.name for e in episodes]
    with pytest.raises(IndexError):
        joined[16]
    exam = materials.exam_episodes((data_folder, data_folder), 3)
    assert [e.name for e in exam] == 2 * names[:3]


@pytest.mark.parametrize("shape", ["2", "a,b,c", "7,1,1"])
def test_impossible_meshes_are_refused(shape):
    with pytest.raises(UserError, match="mesh"):
        materials.make_mesh(shape)


def test_unknown_models_and_missing_data_are_refused(tmp_path):
    with pytest.raises(UserError, match="nano"):
        materials.starting_point("nanoo")
    with pytest.raises(UserError, match="data folder"):
        materials.open_episodes((tmp_path,), materials.Start("nano"))
    with pytest.raises(UserError):
        materials.load_start(tmp_path)
