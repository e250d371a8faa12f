"""The order of examples and the plan of rows: nothing lost, nothing twice, by step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soler1_jax.common.errors import UserError
from soler1_jax.data.order import Order, Plan
from soler1_jax.data.row_room import RowShape, Size

SOURCES = ["a"] * 30 + ["b"] * 7 + ["c"] * 5


def test_a_source_is_seen_whole_before_any_of_it_comes_again():
    order = Order(SOURCES, {"a": 1.0}, 0)
    first, second = ([order[i] for i in range(k, k + 30)] for k in (0, 30))
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second and first != sorted(first)


def test_sources_come_as_often_as_they_weigh_and_others_never():
    order = Order(SOURCES, {"a": 3.0, "b": 1.0, "absent": 5.0}, 1)
    drawn = np.array([order[i] for i in range(8000)])
    assert abs((drawn < 30).mean() - 0.75) < 0.02
    assert drawn.max() < 37


def test_a_position_depends_on_the_seed_alone():
    far = Order(SOURCES, {"a": 1, "b": 1}, 3)[5000]
    again = Order(SOURCES, {"a": 1, "b": 1}, 3)
    assert [again[i] for i in (4999, 5000)][1] == far
    other = Order(SOURCES, {"a": 1, "b": 1}, 4)
    assert [again[i] for i in range(50)] != [other[i] for i in range(50)]


@pytest.mark.parametrize("mixture", [{"d": 1.0}, {"a": 0.0}, {"a": 1.0, "b": -1.0}])
def test_mixtures_that_choose_nothing_are_refused(mixture):
    with pytest.raises(UserError, match="weights to sources"):
        Order(SOURCES, mixture, 0)


size = st.builds(
    Size,
    st.integers(1, 20),
    st.lists(st.sampled_from([4, 8, 16]), max_size=2).map(tuple),
)


@settings(max_examples=40)
@given(st.lists(size, min_size=1, max_size=30), st.integers(1, 4), st.booleans())
def test_plans_keep_the_order_and_the_room(sizes, rows, shared):
    shape = RowShape(rows=rows, length=24, pictures=2, patches=32, shared=shared)
    order = Order(["x"] * len(sizes), {"x": 1.0}, 0)
    plan = Plan(sizes, order, shape)
    position = 0
    for step in range(5):
        batch = plan.rows(step)
        assert len(batch) == rows
        for row in batch:
            assert sum(sizes[i].tokens for i in row) <= shape.length
            pictures = [p for i in row for p in sizes[i].patches]
            assert sum(pictures) <= shape.pictures * shape.patches
            assert shared or len(pictures) <= shape.pictures
        count = sum(map(len, batch))
        assert count > 0
        wanted = [order[position + k] for k in range(count)]
        assert sorted(i for row in batch for i in row) == sorted(wanted)
        position += count


def test_a_step_asked_for_first_is_the_one_that_comes_in_turn():
    rng = np.random.default_rng(0)
    sizes = [Size(int(n), ()) for n in rng.integers(1, 12, 40)]
    shape = RowShape(rows=3, length=16, pictures=1, patches=4)

    def plan():
        return Plan(sizes, Order(["x"] * 40, {"x": 1.0}, 0), shape)

    turn = plan()
    assert [turn.rows(s) for s in range(8)][7] == plan().rows(7)
    assert turn.rows(2) == plan().rows(2)


def test_an_example_that_fits_no_row_is_one_line():
    shape = RowShape(rows=3, length=16, pictures=1, patches=8, shared=True)
    order = Order(["x"], {"x": 1.0}, 0)
    with pytest.raises(UserError, match="holds 16 tokens; example 0 has 17"):
        Plan([Size(17, ())], order, shape)
    with pytest.raises(UserError, match="example 2 has 17"):
        Plan([Size(4, ()), Size(4, ()), Size(17, ())], order, shape)
    with pytest.raises(UserError, match="holds 8 patches of a picture"):
        Plan([Size(4, (12,))], order, shape)
    with pytest.raises(UserError, match="holds 8 patches; the pictures"):
        Plan([Size(4, (4, 8))], order, shape)
