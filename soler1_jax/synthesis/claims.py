"""Claims: what a thought says of a pair of frames, in machine-readable form.

`measure` derives the true claims from an episode's facts, `extract` reads the
claims back out of a text, `check` compares the two. Kinds and values are listed in
phrases.py. Distances in metres, progress in percent; T frames, F facts (FACTS).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import numpy as np

from soler1_jax.data.records import FACTS
from soler1_jax.synthesis import phrases

Claims = dict[str, str]

# Two thoughts in one text that contradict each other are worth no claim at all.
CONFLICT = "conflict"

MOTION_M = 0.01
NEAR_M = 0.03
EFFECT = 0.04
TREND_PERCENT = 2.0
BEGUN, MOSTLY = 0.1, 0.6

# Verbs whose effect is the gripper's own position, and verbs that need a grasp.
APPROACH_VERBS = ("reach", "touch")
GRASP_VERBS = ("lift", "place")


def measure(facts: np.ndarray, verb: str, prev: int, cur: int) -> Claims:
    """The true claims about frames `prev` and `cur`.

    Args:
      facts: float32 [T,F], columns FACTS.
      verb: the task's verb, e.g. "open".
      prev: index of the previous frame.
      cur: index of the frame that is judged.
    """

    def fact(name: str, frame: int) -> float:
        return float(facts[frame, FACTS.index(name)])

    def true(name: str) -> bool:
        return fact(name, cur) > 0.5

    def change(name: str, threshold: float, down: str, level: str, up: str) -> str:
        difference = fact(name, cur) - fact(name, prev)
        if abs(difference) < threshold:
            return level
        return up if difference > 0 else down

    approach = verb in APPROACH_VERBS
    state = _state(fact("act", cur), true("success"))
    near = fact("gap", cur) < NEAR_M
    contact = "yes" if true("contact") else "near" if near else "no"
    claims = {
        "motion": change("distance", MOTION_M, "nearer", "same", "farther"),
        "contact": contact,
    }
    if true("other_contact") or true("other_grasped"):
        claims["wrong"] = "yes"
    if verb in GRASP_VERBS:
        claims["grasp"] = "yes" if true("grasped") else "no"
    if not approach:
        claims["object"] = change("act", EFFECT, "away", "still", "toward")
    claims["state"] = state
    claims["remains"] = _remains(state, contact == "yes" or true("grasped"))
    claims["trend"] = change("progress", TREND_PERCENT, "down", "same", "up")
    return claims


def _state(fraction: float, success: bool) -> str:
    if success:
        return "done"
    if fraction >= MOSTLY:
        return "most"
    if fraction >= BEGUN:
        return "some"
    return "none" if fraction > -BEGUN else "worse"


def _remains(state: str, engaged: bool) -> str:
    if state == "done":
        return "nothing"
    if not engaged:
        return "reach"
    return "finish" if state == "most" else "act"


_CLAUSE = re.compile(r"[,.;]")


@functools.cache
def _lexicon() -> dict[str, tuple[str, str]]:
    """Every clause that can be said, nouns filled in -> its claim."""
    table = {}
    for phrase, claim in phrases.all_phrases().items():
        for noun in ("{n}",) if "{n}" not in phrase else _names():
            table[phrase.replace("{n}", noun)] = claim
    return table


def _names() -> tuple[str, ...]:
    return (phrases.PRONOUN, *phrases.NOUNS)


def extract(text: str) -> Claims:
    """The claims that a thought states.

    Clauses outside the closed grammar state nothing. A kind that is stated with two
    different values gets the value CONFLICT, which is never true.
    """
    claims: Claims = {}
    for clause in _CLAUSE.split(text.lower()):
        claim = _lexicon().get(" ".join(clause.split()))
        if claim is None:
            continue
        kind, value = claim
        claims[kind] = value if claims.get(kind, value) == value else CONFLICT
    return claims


def check(text: str, truth: Mapping[str, str]) -> dict[str, bool]:
    """For each kind that a thought states: is it true?

    Args:
      text: a thought.
      truth: what `measure` gave for the same frames. A kind missing from it is false
        (a wrong object touched that was not, a grasp where none is needed).
    """
    return {k: truth.get(k) == v for k, v in extract(text).items()}


def score(text: str, truth: Mapping[str, str]) -> float:
    """Truth of a thought as a reward in [0, 1].

    The share of the true claims that the text states rightly, less its false
    statements; so neither silence nor guessing everything pays.
    """
    verdicts = check(text, truth)
    right = sum(verdicts.get(kind, False) for kind in truth)
    wrong = sum(not ok for ok in verdicts.values())
    return max(0.0, (right - wrong) / len(truth)) if truth else 0.0
