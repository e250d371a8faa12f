"""Parts of a data set hold what was asked for, in order, and nothing else."""

import dataclasses

import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import records, selection, text


@dataclasses.dataclass(frozen=True)
class Row:
    """What selection looks at."""

    name: int
    family: str
    level: int
    queries: tuple = ()


ROWS = [Row(i, ("lift", "push", "reach")[i % 3], i % 4) for i in range(24)]


def _names(source):
    return [source[i].name for i in range(len(source))]


@pytest.mark.parametrize("families", [(), ("push",), ("lift", "reach")])
@pytest.mark.parametrize("levels", [(), (0,), (1, 3)])
@pytest.mark.parametrize("count", [None, 2, 1000])
def test_records_are_those_asked_for(families, levels, count):
    wanted = [
        row.name
        for row in ROWS
        if (not families or row.family in families)
        and (not levels or row.level in levels)
    ]
    chosen = selection.select(ROWS, families=families, levels=levels, records=count)
    assert _names(chosen) == wanted[:count]


def test_the_whole_is_left_as_it_is():
    assert selection.select(ROWS) is ROWS


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"families": ("psuh",)}, "push"),
        ({"families": ("lift",), "levels": (9,)}, "levels 9"),
        ({"records": 0}, "records"),
    ],
)
def test_what_is_not_there_is_said(asked, hint):
    with pytest.raises(UserError, match=hint):
        selection.select(ROWS, **asked)


def test_parts_that_differ_have_different_names():
    a = selection.select(ROWS, families=("push",))
    b = selection.select(ROWS, families=("lift",))
    assert repr(a) != repr(b)
    assert repr(a) == repr(selection.select(ROWS, families=("push",)))


def test_thoughts_go_and_answers_stay():
    query = records.Query(
        source="progress",
        first=0,
        prev=0,
        cur=1,
        prompt="lift it",
        completion=text.progress_completion("gripper nearer, progress up", 40),
        progress=40,
        previous=0,
        claims={"trend": "up"},
    )
    (short,) = selection.WithoutThoughts([Row(0, "lift", 0, (query,))])[0].queries
    assert text.split_completion(short.completion) == ("", "+040")
    assert text.parse_progress(short.completion) == 40
    assert short.claims == {} and short.progress == 40
