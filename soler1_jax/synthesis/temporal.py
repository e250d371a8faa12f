"""Questions about time that two pictures answer (paper section 4, second layer).

An answer never tells of a motion that is an unseen task: nothing is said of a drawer
closing, or of a red cube going left, if no task that does so is trained.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from soler1_jax.data import text
from soler1_jax.envs.tasks import TASKS
from soler1_jax.synthesis.look import FIXTURES, GRIPPER, OBJECTS, Look, Question

MOVED_M = 0.02
MOVED_TRAVEL = 0.12
MOVED_PERCENT = 12.0
# Share that is kept of an answer that would otherwise be the most common by far.
KEEP_COMMON = 0.4
# Only near-expert runs go one way, so that order can be told from the pictures.
ORDERED_LEVEL = 1

_AXES = (("left", "right"), ("near", "away"), ("down", "up"))

# Verb that is told of when an object goes that way.
_VERBS = {
    "left": "push_left",
    "right": "push_right",
    "near": "push_near",
    "away": "push_away",
    "down": "place",
    "up": "lift",
}
_TRAINED = {(t.verb, t.noun) for t in TASKS if t.split == "train"}

Maker = Callable[[Look, Look, np.random.Generator], Question | None]


def moved(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Which thing, beside the gripper, has moved?"""
    amounts = {}
    for thing in (*OBJECTS, *FIXTURES):
        if not after.name(thing) or not (before.seen(thing) or after.seen(thing)):
            continue
        amounts[thing] = (
            abs(after.travel(thing) - before.travel(thing)) / MOVED_TRAVEL
            if thing in FIXTURES
            else float(np.linalg.norm(_shift(before, after, thing))) / MOVED_M
        )
    if not amounts:
        return None
    most = max(amounts, key=lambda thing: amounts[thing])
    answer = after.name(most) if amounts[most] >= 1 else "nothing"
    if answer == "nothing" and rng.random() > KEEP_COMMON:
        return None
    still = [after.name(c) for c in amounts if amounts[c] < 0.5]
    said = f"{still[0]} stays" if still else "all moved"
    moving = f"{answer} moves" if answer != "nothing" else "only the gripper moves"
    return Question(
        "what did the gripper move ?",
        f"{said}, {moving}",
        answer,
        {"kind": "moved", "answer": answer, "amount": amounts[most]},
    )


def direction(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Which way did the gripper or an object move?"""
    options = [GRIPPER, *(c for c in OBJECTS if after.seen(c))]
    clear = [
        c for c in options if np.linalg.norm(_shift(before, after, c)) >= 1.5 * MOVED_M
    ]
    if not clear:
        return None
    thing = clear[rng.integers(len(clear))]
    shift = _shift(before, after, thing)
    axis = int(np.argmax(np.abs(shift)))
    answer = _AXES[axis][int(shift[axis] > 0)]
    name = after.name(thing)
    if thing != GRIPPER and (_VERBS[answer], name) not in _TRAINED:
        return None
    return Question(
        f"which way did the {name} move ?",
        f"{name} from column {_column(before, thing)} to {_column(after, thing)}",
        answer,
        {"kind": "direction", "a": name, "shift": float(shift[axis]), "axis": axis},
    )


def _shift(before: Look, after: Look, thing: int) -> np.ndarray:
    return after.position(thing) - before.position(thing)


def _column(look: Look, thing: int) -> str:
    hidden = not (look.episode.semantic[look.frame] == thing).any()
    return "none" if hidden else str(look.column(thing))


def further(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Which picture shows more progress on the task?"""
    del rng
    change = after.fact("progress") - before.fact("progress")
    if abs(change) < MOVED_PERCENT:
        return None
    near = after.fact("distance") - before.fact("distance")
    hand = "nearer" if near < 0 else "farther"
    return Question(
        f"{text.normalise(after.episode.sentence)} : which picture is further ?",
        f"in the second the hand is {hand}",
        "second" if change > 0 else "first",
        {"kind": "further", "change": change},
    )


def order(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Which picture came first in a run that goes one way?"""
    del rng
    change = after.fact("progress") - before.fact("progress")
    if before.episode.level > ORDERED_LEVEL or abs(change) < MOVED_PERCENT:
        return None
    if (change > 0) != (after.frame > before.frame):
        return None
    return Question(
        f"{text.normalise(after.episode.sentence)} : which picture came first ?",
        f"the {'second' if change > 0 else 'first'} is further",
        "first" if after.frame > before.frame else "second",
        {"kind": "order", "change": change},
    )


def fixture(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Did a fixture open or close, if both are trained?"""
    seen = [
        c
        for c in FIXTURES
        if {("open", after.name(c)), ("close", after.name(c))} <= _TRAINED
    ]
    if not seen:
        return None
    thing = seen[rng.integers(len(seen))]
    change = after.travel(thing) - before.travel(thing)
    answer = "neither"
    if abs(change) >= MOVED_TRAVEL:
        answer = "opened" if change > 0 else "closed"
    elif rng.random() > KEEP_COMMON:
        return None
    word = {"neither": "as before", "opened": "wider", "closed": "narrower"}[answer]
    return Question(
        f"has the {after.name(thing)} opened or closed ?",
        f"the gap is {word}",
        answer,
        {"kind": "fixture", "a": after.name(thing), "change": change},
    )


def approach(before: Look, after: Look, rng: np.random.Generator) -> Question | None:
    """Did the gripper come nearer to a thing?"""
    if not after.located:
        return None
    thing = after.located[rng.integers(len(after.located))]
    gaps = [
        float(np.linalg.norm(look.position(GRIPPER) - look.position(thing)))
        for look in (before, after)
    ]
    change = gaps[1] - gaps[0]
    if abs(change) < MOVED_M:
        return None
    name = after.name(thing)
    columns = [_column(look, GRIPPER) for look in (before, after)]
    return Question(
        f"is the gripper nearer to the {name} in the second picture ?",
        f"gripper from column {columns[0]} to {columns[1]}, "
        f"{name} in {_column(after, thing)}",
        "yes" if change < 0 else "no",
        {"kind": "approach", "a": name, "change": change},
    )


MAKERS: tuple[Maker, ...] = (moved, direction, further, order, fixture, approach)
