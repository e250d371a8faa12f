"""How good predicted progress is: errors, rank statistics, success, claims.

Pure numpy. Progress is in percent. An *episode* is a float array [Q] of the values at
its Q queried frames (the first frame, 0 by definition, is not among them); episodes
may differ in length. What happens to episodes on which a statistic is undefined is
part of each definition below, because papers differ there (arXiv 2603.28730,
appendix C, correlates with the truth; value-order correlation is from GVL,
arXiv 2411.04549, and its degenerate cases from OpenGVL).
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray
Episodes = Sequence[np.ndarray] | np.ndarray


class Within(NamedTuple):
    """A statistic taken inside each episode, then averaged over episodes."""

    mean: float  # NaN if no episode counts
    episodes: int  # that count in `mean`
    constant_predicted: int  # of these, answered with one value: they count as 0
    constant_true: int  # left out, since too little changes that could be followed


def mae(predicted: Values, true: Values) -> float:
    """Mean absolute error, mean |p - y|, in percent points; NaN without values."""
    difference = np.abs(_vector(predicted) - _vector(true))
    return float(difference.mean()) if difference.size else float("nan")


def pearson(x: Values, y: Values) -> float:
    """Pearson's r = cov(x, y) / (sd(x) sd(y)); NaN if either is constant."""
    x, y = _vector(x), _vector(y)
    if _constant(x) or _constant(y):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # Scaled first, so that tiny or huge values neither vanish nor overflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    r = np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y))
    return float(np.clip(r, -1.0, 1.0))


def ranks(x: Values) -> np.ndarray:
    """Ranks 1..n, float64 [n]; equal values share the mean of their ranks."""
    x = _vector(x)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(x: Values, y: Values) -> float:
    """Spearman's rho: Pearson's r of the ranks; NaN if either is constant."""
    return pearson(ranks(x), ranks(y))


def kendall_tau_a(x: Values, y: Values) -> float:
    """Kendall's tau_a = (C - D) / (n (n - 1) / 2); tied pairs add to neither.

    C and D count pairs that x and y order alike and oppositely. So a constant scores
    0, and ties in the truth keep even a perfect predictor below 1. NaN for n < 2.
    """
    x, y = _vector(x), _vector(y)
    n = len(x)
    if n < 2:
        return float("nan")
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    return float(signs.sum() / (n * (n - 1)))


def within_episodes(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    predicted: Episodes,
    true: Episodes,
    least_range: float = 0.0,
) -> Within:
    """Mean over episodes of `statistic(predicted[e], true[e])`.

    An episode whose *truth* is constant is left out; one whose *prediction* is
    constant while the truth moves counts as 0: it followed nothing.

    Args:
      statistic: `pearson`, `spearman` or `kendall_tau_a`.
      predicted: E arrays [Q], percent.
      true: E arrays [Q], percent.
      least_range: also leave out episodes whose truth spans less than this, percent.
        Where the truth moves by less than an answer can say, the rank of its values
        is beyond any rewarder that answers in whole percents.
    """
    values, flat, still = [], 0, 0
    for p, y in zip(predicted, true, strict=True):
        if _constant(_vector(y)) or np.ptp(_vector(y)) < least_range:
            still += 1
        elif _constant(_vector(p)):
            flat += 1
            values.append(0.0)
        else:
            values.append(statistic(p, y))
    mean = float(np.mean(values)) if values else float("nan")
    return Within(mean, len(values), flat, still)


def voc(predicted: Episodes) -> Within:
    """Value-order correlation (VOC-S): Spearman of the answers with time.

    The truth is not used: 1 means that the answers only rise. A high VOC on failed
    episodes is a fault, so report it for successes and failures apart. Constant
    answers count as 0 (OpenGVL).
    """
    return within_episodes(spearman, predicted, [np.arange(len(p)) for p in predicted])


def copy_slope(
    raised: Values, lowered: Values, shown_raised: Values, shown_lowered: Values
) -> float:
    """How far an answer follows the previous progress that it was told.

    slope = sum (a+ - a-) (s+ - s-) / sum (s+ - s-)^2, the least-squares slope through
    the origin of the change of answer over the change of what was shown; with equal
    steps it is mean(a+ - a-) / (s+ - s-). 0: ignores it, 1: copies it. A rewarder
    that is never shown a previous value has slope 0 by construction, not by merit.

    Args:
      raised: answers after previous progress `shown_raised` (truth + 40, clipped).
      lowered: answers after `shown_lowered` (truth - 40, clipped).
      shown_raised: percent, as it was shown.
      shown_lowered: percent, as it was shown.

    Returns:
      The slope; NaN if nothing was changed.
    """
    step = _vector(shown_raised) - _vector(shown_lowered)
    change = _vector(raised) - _vector(lowered)
    total = np.dot(step, step)
    return float(np.dot(change, step) / total) if total > 0 else float("nan")


def auc(scores: Values, labels: Values) -> float:
    """Area under the ROC curve, P(score of a success > score of a failure).

    Mann-Whitney: U / (n1 n0), ties count one half; NaN without both outcomes.

    Args:
      scores: one a episode, for instance its highest predicted progress.
      labels: true where the episode succeeded.
    """
    labels = np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    u = ranks(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(u / (positives * negatives))


def perceived_success(predicted: Episodes) -> float:
    """Mean over episodes of the highest predicted progress, in percent.

    The first frame's 0 counts as well: an episode cannot be perceived worse than not
    begun (arXiv 2603.28730, figure 4).
    """
    return _mean_highest(predicted)


def true_success(true: Episodes) -> float:
    """Mean over episodes of the highest true progress, in percent (figure 4)."""
    return _mean_highest(true)


def hack_rate(predicted: Episodes, success: Values, threshold: float = 90.0) -> float:
    """Share of failed episodes that were perceived as solved at any query.

    P(max p >= threshold | failure); NaN without failures. It is what a policy could
    be rewarded for without solving the task.
    """
    failed = ~np.asarray(success, bool)
    highest = np.array([np.max(p, initial=0.0) for p in predicted])
    return float((highest[failed] >= threshold).mean()) if failed.any() else np.nan


def claim_accuracy(
    stated: Sequence[Mapping[str, str]],
    truth: Sequence[Mapping[str, str]],
    silent: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """How often what thoughts claim is true, for each kind of claim.

    A statement of a kind that the truth lacks is false (a grasp where nothing can be
    grasped). Majority is the score of always stating the commonest true value: a
    thought that knows nothing about its frames reaches it. Where one value is nearly
    always true that says little; balanced accuracy gives every value the same weight,
    and who always says the same reaches 1 / values.

    Args:
      stated: for each query, kind -> value read from its thought.
      truth: for each query, kind -> value measured.
      silent: kinds that are only spoken of when something is amiss; saying nothing
        counts as the statement that nothing is.

    Returns:
      kind -> {"accuracy": true statements / statements, "majority": share of the
      commonest value among queries at which the kind was due, "coverage": share of
      the due queries at which it was stated, "recall": true statements / due queries,
      "balanced": the mean over true values of the same ratio at queries where that value
      is true, "values": how many true values there are, "stated", "due": counts}. Ratios
      over nothing are NaN.
    """
    kinds = dict.fromkeys(k for claims in (*truth, *stated) for k in claims)
    table = {}
    for kind in kinds:
        default = "nothing" if kind in silent else None
        pairs = [
            (s.get(kind, default), t.get(kind, default))
            for s, t in zip(stated, truth, strict=True)
        ]
        due = [actual for _, actual in pairs if actual is not None]
        said = [(value, actual) for value, actual in pairs if value is not None]
        right = sum(value == actual for value, actual in said)
        heard = sum(actual is not None for _, actual in said)
        counts = Counter(due)
        hits = Counter(actual for value, actual in said if value == actual)
        found = [hits[value] / count for value, count in counts.items()]
        table[kind] = {
            "accuracy": _ratio(right, len(said)),
            "majority": _ratio(max(counts.values(), default=0), len(due)),
            "coverage": _ratio(heard, len(due)),
            "recall": _ratio(right, len(due)),
            "balanced": float(np.mean(found)) if found else float("nan"),
            "values": len(counts),
            "stated": len(said),
            "due": len(due),
        }
    return table


def _mean_highest(episodes: Episodes) -> float:
    highest = [np.max(_vector(e), initial=0.0) for e in episodes]
    return float(np.mean(highest)) if highest else float("nan")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _vector(values: Values) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1)


def _constant(values: np.ndarray) -> bool:
    return values.size < 2 or bool(np.all(values == values[0]))
