"""The largest batch is found, by few trials."""

import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.planning.search import largest


def _search(needs, limit, **options):
    trials = largest(needs, limit, **options)
    assert len({trial.units for trial in trials}) == len(trials), "one twice"
    return max(t.units for t in trials if t.bytes <= limit), len(trials)


@pytest.mark.parametrize("answer", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize(
    "curve",
    [
        lambda u: 1000 + 10 * u,
        lambda u: 1000 + u**2,
        lambda u: 1000 + 100 * (u // 16) + u,
        lambda u: 1000 + 50 * (u > 5) + u,
    ],
)
def test_the_last_one_that_fits(curve, answer):
    best, count = _search(curve, curve(answer), part=0)
    assert best == answer and count <= 24


def test_a_line_takes_few_trials():
    best, count = _search(lambda u: 1000 + 10 * u, 1000 + 10 * 777, part=0)
    assert (best, count) == (777, 4)


def test_an_eighth_is_left_untried():
    def needs(units):
        return 1000 + units**2

    best, count = _search(needs, needs(1000))
    exact, more = _search(needs, needs(1000), part=0)
    assert 1000 * 7 / 8 <= best <= exact == 1000 and count < more


def test_it_ends_where_it_is_told_to():
    assert _search(lambda u: 1, 2, most=100, part=0)[0] == 100


def test_nothing_fits():
    with pytest.raises(UserError, match="smallest"):
        largest(lambda u: 10 * u, 9)
