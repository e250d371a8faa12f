"""Thoughts in words, written from measured claims in varied wording.

Facts come first and the conclusion last, because the answer is decoded after them
(paper section 3.5). About eighteen tokens, seldom thirty: a thought is decoded for every
query of every world, and that is what a rewarder's speed depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from soler1_jax.synthesis import phrases

# How often a noun gives way to "it".
SAY_PRONOUN = 0.35

_GROUPS = {
    "reach": "approach",
    "touch": "approach",
    "lift": "lift",
    "place": "place",
    "push": "push",
    "press": "press",
    "open": "open",
    "close": "close",
    "turn": "turn",
    "raise": "turn",
    "lower": "turn",
    "slide": "push",
}


def group_of(verb: str) -> str:
    """The wording group of a verb: "push_left" -> "push"; "" if none fits."""
    return _GROUPS.get(verb.replace("-", "_").split("_")[0], "")


def write(
    claims: Mapping[str, str], verb: str, noun: str, rng: np.random.Generator
) -> str:
    """One thought that states the claims.

    Args:
      claims: kind -> value, from `claims.measure`.
      verb: the task's verb.
      noun: the named thing, one of phrases.NOUNS.
      rng: chooses the wording.

    Returns:
      Clauses joined by commas, e.g. "gripper nearer, not touching, drawer still
      shut, progress up".
    """
    said = []
    for kind in phrases.KINDS:
        if kind not in claims:
            continue
        options = phrases.phrases(kind, claims[kind], group_of(verb))
        phrase = options[rng.integers(len(options))]
        name = phrases.PRONOUN if rng.random() < SAY_PRONOUN else noun
        said.append(phrase.replace("{n}", name))
    return ", ".join(said)


def vocabulary() -> Iterator[str]:
    """Every clause once, nouns filled in: the words a tokenizer must know."""
    for phrase in phrases.all_phrases():
        for noun in phrases.NOUNS if "{n}" in phrase else ("",):
            yield phrase.replace("{n}", noun)
