"""The closed set of wordings that thoughts are made of.

A thought is a list of clauses; a clause is one phrase; a phrase states exactly one
(kind, value) claim, and no two claims share a phrase. `{n}` stands for the named
thing ("cube", "drawer", "it"). The kinds, in the order in which a thought states
them (paper section 3.5: facts first, then the conclusion):

    motion   nearer | farther | same            gripper to named thing, since `prev`
    contact  yes | near | no                    gripper and named thing, at `cur`
    wrong    yes                                only if another object is touched
    grasp    yes | no                           only for verbs that need a grasp
    object   toward | away | still              effect on the world, since `prev`
    state    worse | none | some | most | done  effect on the world, since `first`
    remains  reach | act | finish | nothing     what is left to do (not always said)
    trend    up | down | same                   progress, since `prev`
"""

from __future__ import annotations

from soler1_jax.data.records import CLAIMS

NOUNS = (
    "cube",
    "ball",
    "cylinder",
    "button",
    "drawer",
    "window",
    "door",
    "lid",
    "lever",
    "dial",
)
PRONOUN = "it"

KINDS = tuple(CLAIMS)

# Wordings that fit every verb.
GENERAL: dict[tuple[str, str], tuple[str, ...]] = {
    ("motion", "nearer"): (
        "gripper nearer",
        "gripper closer",
        "hand nears {n}",
        "gap shrinks",
    ),
    ("motion", "farther"): (
        "gripper farther",
        "gripper retreats",
        "hand leaves {n}",
        "gap grows",
    ),
    ("motion", "same"): (
        "gripper no nearer",
        "same distance",
        "no nearer than before",
        "gap unchanged",
    ),
    ("contact", "yes"): ("touching {n}", "in contact", "on {n} now"),
    ("contact", "near"): ("almost touching", "close by", "close to {n}"),
    ("contact", "no"): ("not touching", "no contact", "clear of {n}"),
    ("wrong", "yes"): ("wrong object touched", "other object touched"),
    ("grasp", "yes"): ("{n} is held", "firm grip", "fingers hold {n}"),
    ("grasp", "no"): ("nothing held", "grip empty", "{n} not held"),
    ("object", "toward"): ("{n} moves on", "{n} advances"),
    ("object", "away"): ("{n} moves back", "{n} slips back"),
    ("object", "still"): ("{n} stays put", "{n} unmoved", "{n} rests"),
    ("state", "worse"): ("worse than before", "behind the start"),
    ("state", "none"): ("not begun", "nothing done"),
    ("state", "some"): ("partly done", "some way done"),
    ("state", "most"): ("mostly done", "nearly there"),
    ("state", "done"): ("goal reached", "task complete"),
    ("remains", "reach"): ("must reach {n}", "go to {n}"),
    ("remains", "act"): ("must move {n}", "then move {n}"),
    ("remains", "finish"): ("must finish", "a little more"),
    ("remains", "nothing"): ("nothing left", "all done"),
    ("trend", "up"): ("progress rises", "progress up", "better now"),
    ("trend", "down"): ("progress falls", "progress down", "worse now"),
    ("trend", "same"): ("progress flat", "progress same", "no change"),
}

# Wordings that fit some verbs only: group -> claim -> phrases.
SPECIFIC: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {
    "lift": {
        ("object", "toward"): ("{n} rises", "{n} goes up"),
        ("object", "away"): ("{n} sinks", "{n} drops"),
        ("state", "none"): ("{n} on the table",),
        ("state", "some"): ("{n} raised a little",),
        ("state", "most"): ("{n} well raised",),
        ("state", "done"): ("{n} up high",),
        ("remains", "act"): ("must lift {n}",),
    },
    "place": {
        ("object", "toward"): ("{n} nears the plate",),
        ("object", "away"): ("{n} leaves the plate", "{n} drifts off"),
        ("state", "none"): ("{n} far from the plate",),
        ("state", "some"): ("{n} part way",),
        ("state", "most"): ("{n} close to the plate",),
        ("state", "done"): ("{n} on the plate",),
        ("remains", "act"): ("must place {n}",),
    },
    "push": {
        ("object", "toward"): ("{n} slides on",),
        ("object", "away"): ("{n} slides back",),
        ("state", "none"): ("{n} where it was",),
        ("state", "some"): ("{n} pushed a little",),
        ("state", "most"): ("{n} pushed far",),
        ("state", "done"): ("{n} pushed enough",),
        ("remains", "act"): ("must push {n}",),
    },
    "press": {
        ("object", "toward"): ("{n} goes in",),
        ("object", "away"): ("{n} comes out",),
        ("state", "none"): ("{n} not pressed",),
        ("state", "some"): ("{n} pressed a little",),
        ("state", "most"): ("{n} pressed far",),
        ("state", "done"): ("{n} pressed in",),
        ("remains", "act"): ("must press {n}",),
    },
    "open": {
        ("object", "toward"): ("{n} opens further",),
        ("object", "away"): ("{n} falls shut",),
        ("state", "none"): ("{n} still shut",),
        ("state", "some"): ("{n} open a little",),
        ("state", "most"): ("{n} mostly open",),
        ("state", "done"): ("{n} fully open",),
        ("remains", "act"): ("must open {n}",),
    },
    "close": {
        ("object", "toward"): ("{n} shuts further",),
        ("object", "away"): ("{n} opens again",),
        ("state", "none"): ("{n} still open",),
        ("state", "some"): ("{n} shut a little",),
        ("state", "most"): ("{n} mostly shut",),
        ("state", "done"): ("{n} fully shut",),
        ("remains", "act"): ("must close {n}",),
    },
    "turn": {
        ("object", "toward"): ("{n} turns on",),
        ("object", "away"): ("{n} turns back",),
        ("state", "none"): ("{n} not turned",),
        ("state", "some"): ("{n} turned a little",),
        ("state", "most"): ("{n} turned far",),
        ("state", "done"): ("{n} turned enough",),
        ("remains", "act"): ("must turn {n}",),
    },
    "approach": {
        ("state", "none"): ("hand at the start",),
        ("state", "some"): ("part way gone",),
        ("state", "most"): ("most way gone",),
        ("state", "done"): ("hand has arrived",),
        ("remains", "act"): ("must touch {n}",),
    },
}


def phrases(kind: str, value: str, group: str) -> tuple[str, ...]:
    """All wordings of one claim that fit a group of verbs, `{n}` unfilled."""
    claim = (kind, value)
    return SPECIFIC.get(group, {}).get(claim, ()) + GENERAL[claim]


def all_phrases() -> dict[str, tuple[str, str]]:
    """Phrase with `{n}` unfilled -> (kind, value).

    Raises:
      ValueError: two claims share a phrase (a mistake in the tables).
    """
    table: dict[str, tuple[str, str]] = {}
    for claims in (GENERAL, *SPECIFIC.values()):
        for claim, wordings in claims.items():
            for phrase in wordings:
                if table.setdefault(phrase, claim) != claim:
                    raise ValueError(f"{phrase!r}: both {table[phrase]} and {claim}")
    return table
