"""The task list and its split."""

import json

import numpy as np
import pytest

from soler1_jax.cli import tasks as command
from soler1_jax.common.errors import UserError
from soler1_jax.envs import tasks


def _keys(split):
    return {(t.verb, t.noun) for t in tasks.TASKS if t.split == split}


def test_there_are_enough_tasks_and_families():
    assert len(tasks.TASKS) >= 20
    assert len({task.family for task in tasks.TASKS}) >= 7
    assert {task.family for task in tasks.TASKS} == set(tasks.FAMILIES)


def test_train_and_unseen_do_not_meet():
    train, unseen = _keys("train"), _keys("unseen")
    assert train and unseen and not train & unseen
    words = {s: set() for s in ("train", "unseen")}
    for task in tasks.TASKS:
        words[task.split].update(task.phrasings)
    assert not words["train"] & words["unseen"]


def test_every_word_of_an_unseen_task_is_trained_somewhere_else():
    train = [task for task in tasks.TASKS if task.split == "train"]
    for task in tasks.TASKS:
        if task.color:
            assert any(t.color == task.color for t in train)
            assert any(t.shape == task.shape and t.verb == task.verb for t in train)
        else:
            assert any(t.fixture == task.fixture for t in train)


def test_two_nouns_are_never_named_in_training():
    named = {task.noun for task in tasks.TASKS if task.split == "train"}
    hidden = {task.noun for task in tasks.TASKS} - named
    assert len(hidden) == 2


def test_at_least_two_fixture_directions_have_no_train_task():
    def directions(split):
        return {
            (task.fixture, task.direction)
            for task in tasks.TASKS
            if task.fixture and task.split == split
        }

    train, unseen = directions("train"), directions("unseen")
    alone = {d for d in unseen if d not in train and (d[0], -d[1]) in train}
    assert len(alone) >= 2


def test_a_quarter_of_the_object_tasks_is_unseen():
    objects = [task for task in tasks.TASKS if task.color]
    share = np.mean([task.split == "unseen" for task in objects])
    assert 0.2 <= share <= 0.3


def test_names_sentences_and_phrasings_tell_tasks_apart():
    assert len({task.name for task in tasks.TASKS}) == len(tasks.TASKS)
    phrasings = [p for task in tasks.TASKS for p in task.phrasings]
    assert len(set(phrasings)) == len(phrasings)
    assert all(len(task.phrasings) >= 3 for task in tasks.TASKS)
    assert all(task.noun.split()[-1] in task.sentence for task in tasks.TASKS)


def test_the_table_says_what_the_tasks_say():
    table = tasks.table()
    for index, task in enumerate(tasks.TASKS):
        assert tasks.VERBS[table.verb[index]] == task.verb
        assert tasks.FAMILIES[table.family[index]] == task.family
        if task.color:
            assert tasks.COLORS[table.color[index]] == task.color
            assert tasks.SHAPES[table.shape[index]] == task.shape
            assert table.fixture[index] == -1
        else:
            assert tasks.FIXTURES[table.fixture[index]] == task.fixture
            assert table.direction[index] == task.direction
        assert np.linalg.norm(table.push[index]) == (task.family == "push")


def test_an_unknown_name_gets_a_hint():
    index = tasks.task_index("lift-red-cube")
    assert tasks.TASKS[index].name == "lift-red-cube"
    with pytest.raises(UserError, match="lift-red-cube"):
        tasks.task_index("lift-red-cub")


def test_the_command_lists_what_was_asked_for(capsys):
    command.run(command.Args(json=True, split="unseen"))
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(tasks.names("unseen"))
    assert {"name", "sentence", "split", "family"} <= set(rows[0])
    command.run(command.Args(family="drawer"))
    shown = capsys.readouterr().out
    assert "open-drawer" in shown and "lift-red-cube" not in shown
    with pytest.raises(UserError, match="drawer"):
        command.run(command.Args(family="drawr"))
