"""Questions about space that one picture answers (paper section 4, first layer)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from soler1_jax.synthesis.look import (
    FIXTURES,
    GRIPPER,
    OBJECTS,
    Look,
    Question,
)

# Differences too small to be asked about: share of the picture's width, metres.
CLEAR_SHARE = 0.1
CLEAR_M = 0.04
DISTANCE_STEP_CM = 5
# Share that is kept of an answer that would otherwise be the most common by far.
KEEP_COMMON = 0.4

_OPENNESS = ((0.15, "shut"), (0.4, "slightly open"), (0.7, "half open"), (2.0, "open"))

Maker = Callable[[Look, np.random.Generator], Question | None]


def _two(
    things: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int] | tuple[None, None]:
    if len(things) < 2:
        return None, None
    a, b = rng.choice(len(things), 2, replace=False)
    return things[a], things[b]


def side(look: Look, rng: np.random.Generator) -> Question | None:
    """Is a thing left or right of another one in the picture?"""
    a, b = _two((*look.things, GRIPPER) if look.seen(GRIPPER) else look.things, rng)
    if a is None:
        return None
    (ax, _), (bx, _) = look.centre(a), look.centre(b)
    if abs(ax - bx) < CLEAR_SHARE:
        return None
    answer = "left" if ax < bx else "right"
    first, second = look.name(a), look.name(b)
    return Question(
        f"is the {first} left or right of the {second} ?",
        f"{first} in column {look.column(a)}, {second} in column {look.column(b)}",
        answer,
        {"kind": "side", "a": first, "b": second, "ax": ax, "bx": bx},
    )


def depth(look: Look, rng: np.random.Generator) -> Question | None:
    """Which of two things is nearer to the camera?"""
    a, b = _two(look.located, rng)
    if a is None:
        return None
    ay, by = float(look.position(a)[1]), float(look.position(b)[1])
    if abs(ay - by) < CLEAR_M:
        return None
    near, far = (a, b) if ay < by else (b, a)
    first, second = look.name(a), look.name(b)
    return Question(
        f"which is in front , the {first} or the {second} ?",
        f"{look.name(near)} is near, {look.name(far)} is far",
        look.name(near),
        {"kind": "depth", "a": first, "b": second, "ay": ay, "by": by},
    )


def closer(look: Look, rng: np.random.Generator) -> Question | None:
    """Which of two things is closer to the gripper?"""
    a, b = _two(look.located, rng)
    if a is None:
        return None
    da, db = _gap_m(look, a), _gap_m(look, b)
    if abs(da - db) < CLEAR_M:
        return None
    first, second = look.name(a), look.name(b)
    return Question(
        f"which is closer to the gripper , the {first} or the {second} ?",
        f"{first} about {_bucket_cm(da)} cm off, {second} about {_bucket_cm(db)}",
        first if da < db else second,
        {"kind": "closer", "a": first, "b": second, "a_m": da, "b_m": db},
    )


def distance(look: Look, rng: np.random.Generator) -> Question | None:
    """How far is the gripper from a thing, in steps of five centimetres?"""
    if not look.located:
        return None
    thing = look.located[rng.integers(len(look.located))]
    gap = _gap_m(look, thing)
    contact = thing == look.episode.named and look.fact("contact") > 0.5
    word = "touching" if contact else "near" if gap < 0.1 else "apart"
    return Question(
        f"how many cm from the gripper to the {look.name(thing)} ?",
        f"gripper and {look.name(thing)} are {word}",
        str(_bucket_cm(gap)),
        {"kind": "distance", "a": look.name(thing), "m": gap},
    )


def _gap_m(look: Look, thing: int) -> float:
    return float(np.linalg.norm(look.position(GRIPPER) - look.position(thing)))


def _bucket_cm(metres: float) -> int:
    return DISTANCE_STEP_CM * round(100 * metres / DISTANCE_STEP_CM)


def color(look: Look, rng: np.random.Generator) -> Question | None:
    """What colour is the object left (or right) of the other one?"""
    if not all(look.seen(c) for c in OBJECTS):
        return None
    xs = [look.centre(c)[0] for c in OBJECTS]
    if abs(xs[0] - xs[1]) < CLEAR_SHARE:
        return None
    word = ("left", "right")[rng.integers(2)]
    thing = OBJECTS[int(np.argmin(xs) if word == "left" else np.argmax(xs))]
    return Question(
        f"what colour is the {word} object ?",
        f"the {word} object is a {look.shape(thing)} in column {look.column(thing)}",
        look.color(thing),
        {"kind": "color", "side": word, "shape": look.shape(thing)},
    )


def shape(look: Look, rng: np.random.Generator) -> Question | None:
    """What shape is the object of a given colour?"""
    seen = [c for c in OBJECTS if look.seen(c)]
    if not seen or len({look.color(c) for c in OBJECTS}) < 2:
        return None
    thing = seen[rng.integers(len(seen))]
    return Question(
        f"what shape is the {look.color(thing)} object ?",
        f"the {look.color(thing)} object is in column {look.column(thing)}",
        look.shape(thing),
        {"kind": "shape", "color": look.color(thing)},
    )


def place(look: Look, rng: np.random.Generator) -> Question | None:
    """Where in the picture is a thing?"""
    things = (*look.things, GRIPPER) if look.seen(GRIPPER) else look.things
    if not things:
        return None
    thing = things[rng.integers(len(things))]
    x, y = look.centre(thing)
    answer = ("left", "middle", "right")[min(int(3 * x), 2)]
    row = ("top", "middle", "bottom")[min(int(3 * y), 2)]
    return Question(
        f"where is the {look.name(thing)} ?",
        f"{look.name(thing)} in column {look.column(thing)}",
        f"{row} {answer}",
        {"kind": "place", "a": look.name(thing), "x": x, "y": y},
    )


def openness(look: Look, rng: np.random.Generator) -> Question | None:
    """How far open is a drawer, door, window or lid?"""
    seen = [
        c
        for c in FIXTURES
        if look.seen(c) and look.name(c) in ("drawer", "door", "lid")
    ]
    if not seen:
        return None
    thing = seen[rng.integers(len(seen))]
    travel = look.travel(thing)
    answer = next(word for limit, word in _OPENNESS if travel < limit)
    return Question(
        f"how open is the {look.name(thing)} ?",
        f"{look.name(thing)} is at {round(10 * travel)} of 10",
        answer,
        {"kind": "openness", "a": look.name(thing), "travel": travel},
    )


def held(look: Look, rng: np.random.Generator) -> Question | None:
    """Is the gripper holding or touching something?"""
    if look.fact("grasped") > 0.5 or look.fact("other_grasped") > 0.5:
        state, answer = "fingers around an object", "holds"
    elif look.fact("contact") > 0.5 or look.fact("other_contact") > 0.5:
        state, answer = "fingers against something", "touches"
    elif rng.random() < KEEP_COMMON:
        state, answer = "fingers free", "nothing"
    else:
        return None
    return Question(
        "does the gripper hold or touch something ?",
        state,
        answer,
        {"kind": "held", "aperture": look.fact("aperture")},
    )


MAKERS: tuple[Maker, ...] = (
    side,
    depth,
    closer,
    distance,
    color,
    shape,
    place,
    openness,
    held,
)
