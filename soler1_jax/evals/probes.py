"""What a rewarder's answers rest on: the same episodes, with something changed.

*Films* are changed as a whole and then judged in order. A film that runs backwards must
score falling progress, a frozen one none, and one whose frames are in any order must
still be judged frame by frame. *Frames* are changed query by query: what the rewarder is
given as the first and as the previous frame is replaced, to see whether it compares
with them at all. Nothing is known of the rewarder but its contract, so a query with
another previous frame is a film of three frames.

E episodes, T frames each, Q = T - 1 queries; progress in percent.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from soler1_jax.common.rewarder import Rewarder
from soler1_jax.data.records import Episode
from soler1_jax.data.video import letterbox
from soler1_jax.evals import metrics
from soler1_jax.evals.rewarder import MOVING, statement_of, true_progress
from soler1_jax.evals.rollout import roll_out
from soler1_jax.synthesis import claims

Views = dict[str, np.ndarray]


class Film(NamedTuple):
    """Changed films and what a rewarder should make of them.

    Attributes:
      views: view -> uint8 [E, T, H, W, 3].
      truth: float32 [E, T], progress of each shown frame in the original episode.
    """

    views: Views
    truth: np.ndarray


def backwards(views: Views, truth: np.ndarray, rng: np.random.Generator) -> Film:
    """The film from its end to its beginning; progress falls where it rose."""
    return Film({k: v[:, ::-1] for k, v in views.items()}, truth[:, ::-1])


def frozen(views: Views, truth: np.ndarray, rng: np.random.Generator) -> Film:
    """The first frame again and again: nothing happens."""
    held = {k: np.repeat(v[:, :1], v.shape[1], axis=1) for k, v in views.items()}
    return Film(held, np.zeros_like(truth))


def shuffled(views: Views, truth: np.ndarray, rng: np.random.Generator) -> Film:
    """All frames but the first in random order."""
    order = np.argsort(rng.random((len(truth), truth.shape[1] - 1)), axis=1) + 1
    order = np.pad(order, ((0, 0), (1, 0)))
    rows = np.arange(len(truth))[:, None]
    return Film({k: v[rows, order] for k, v in views.items()}, truth[rows, order])


def without_wrist(views: Views, truth: np.ndarray, rng: np.random.Generator) -> Film:
    """The external view alone."""
    return Film({"external": views["external"]}, truth)


def wrist_of_another(views: Views, truth: np.ndarray, rng: np.random.Generator) -> Film:
    """The wrist's view of another episode: two views that contradict each other."""
    return Film(
        {k: _another(v) if k == "wrist" else v for k, v in views.items()}, truth
    )


FILMS: dict[str, Callable[[Views, np.ndarray, np.random.Generator], Film]] = {
    "backwards": backwards,
    "frozen": frozen,
    "shuffled": shuffled,
    "without wrist view": without_wrist,
    "wrist view of another episode": wrist_of_another,
}
_NEED_WRIST = ("without wrist view", "wrist view of another episode")


def _another(frames: np.ndarray) -> np.ndarray:
    """Frames [E, ...] of the next episode."""
    return np.roll(frames, 1, axis=0)


# name -> (first, previous, current) frames [E, T, ...] -> the first and previous shown.
FRAMES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "first and previous as they are": lambda f, p, c: (f, p),
    "first of another episode": lambda f, p, c: (_another(f), p),
    "previous in place of first": lambda f, p, c: (p, p),
    "previous of another episode": lambda f, p, c: (f, _another(p)),
    "first in place of previous": lambda f, p, c: (f, f),
    "current in place of previous": lambda f, p, c: (f, c),
    "first and previous swapped": lambda f, p, c: (p, f),
}


def probe(
    rewarder: Rewarder, episodes: Sequence[Episode], *, seed: int, batch: int = 32
) -> dict[str, dict[str, Any]]:
    """Asks about changed films and changed frames.

    Args:
      rewarder: any that keeps the contract and does not use the truth.
      episodes: E records of equal length.
      seed: of the rewarder's sampling and of shuffled orders.
      batch: episodes at once.

    Returns:
      "films" and "frames": name of the change -> figures. For films "pearson" within
      episodes and "mae" against the truth of the frames that were shown ("backwards"
      has no "mae": what counts as 0 changes with the first frame), and "mean_absolute"
      answer. For frames "mae", "pearson", and the share of true "claims" that thoughts
      state rightly, by kind.
    """
    truth = true_progress(episodes)
    views = {
        view: np.stack(
            [letterbox(getattr(e, view), rewarder.image_size) for e in episodes]
        )
        for view in rewarder.views
        if all(getattr(e, view) is not None for e in episodes)
    }
    ask = _Asker(rewarder, seed, batch)
    sentences = [e.sentence for e in episodes]
    rng = np.random.default_rng(seed)
    films = {"as it is": _film_figures(ask(views, sentences)[0], truth, still=False)}
    for name, change in FILMS.items():
        if name in _NEED_WRIST and "wrist" not in views:
            continue
        film = change(views, truth, rng)
        said, _ = ask(film.views, sentences)
        films[name] = _film_figures(said, film.truth, still=name == "frozen")
    films["backwards"].pop("mae")
    frames = {
        name: _frame_figures(ask, views, episodes, truth, change)
        for name, change in FRAMES.items()
    }
    return {"films": films, "frames": frames}


class _Asker:
    """Calls the rewarder on films of E sentences."""

    def __init__(self, rewarder: Rewarder, seed: int, batch: int) -> None:
        self.rewarder, self.seed, self.batch = rewarder, seed, batch

    def __call__(
        self, views: Views, sentences: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns answers float32 [E, Q] and tokens int32 [E, Q, S]."""
        length = next(iter(views.values())).shape[1]
        # Only the oracle would look at it.
        truth = np.zeros((len(sentences), length), np.float32)
        said = roll_out(
            self.rewarder, views, sentences, truth, seed=self.seed, batch=self.batch
        )
        return said.progress, said.tokens

    def claims(self, tokens: np.ndarray) -> list[dict[str, str]]:
        """What thoughts [N, S] claim."""
        return [
            claims.extract(statement_of(self.rewarder, row).thought) for row in tokens
        ]


def _film_figures(
    said: np.ndarray, truth: np.ndarray, *, still: bool
) -> dict[str, float]:
    figures = {
        "mae": metrics.mae(said, truth[:, 1:]),
        "mean_absolute": float(np.abs(said).mean()),
    }
    if not still:
        within = metrics.within_episodes(metrics.pearson, said, truth[:, 1:], MOVING)
        figures["pearson"] = within.mean
    return figures


def _frame_figures(
    ask: _Asker,
    views: Views,
    episodes: Sequence[Episode],
    truth: np.ndarray,
    change: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """One change of first and previous frames, asked of every query."""
    count, queries = truth.shape[0], truth.shape[1] - 1
    shown = {}
    for view, frames in views.items():
        first = np.repeat(frames[:, :1], queries, axis=1)
        current = frames[:, 1:]
        given = (*change(first, frames[:, :-1], current), current)
        stacked = np.stack(given, axis=2)  # [E, Q, 3, H, W, 3]
        shown[view] = stacked.reshape(count * queries, 3, *frames.shape[2:])
    sentences = [e.sentence for e in episodes for _ in range(queries)]
    said, tokens = ask(shown, sentences)
    answers = said[:, 1].reshape(count, queries)
    stated = ask.claims(tokens[:, 1])
    measured = [
        claims.measure(e.facts, e.verb, t - 1, t)
        for e in episodes
        for t in range(1, queries + 1)
    ]
    kinds = metrics.claim_accuracy(stated, measured) if any(stated) else {}
    within = metrics.within_episodes(metrics.pearson, answers, truth[:, 1:], MOVING)
    return {
        "mae": metrics.mae(answers, truth[:, 1:]),
        "pearson": within.mean,
        "claims": {kind: row["recall"] for kind, row in kinds.items()},
    }
