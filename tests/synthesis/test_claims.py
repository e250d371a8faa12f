"""Thoughts state exactly the claims they were written from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soler1_jax.data.records import CLAIMS, FACTS
from soler1_jax.synthesis import claims, phrases, thoughts

VERBS = ("reach", "touch", "lift", "place", "push_left", "press", "open", "close")
VERBS += ("slide_left", "turn_right", "up", "down")


def facts_of(**columns: tuple[float, float]) -> np.ndarray:
    facts = np.zeros((2, len(FACTS)), np.float32)
    for name, values in columns.items():
        facts[:, FACTS.index(name)] = values
    return facts


@st.composite
def random_facts(draw):
    fraction = st.floats(-1, 1, width=32)
    flag = st.sampled_from([0.0, 1.0])
    columns = {
        "distance": st.floats(0, 0.5, width=32),
        "gap": st.floats(0, 0.25, width=32),
        "reach": fraction,
        "act": fraction,
        "progress": st.floats(-100, 100, width=32),
    }
    columns |= {
        name: flag
        for name in ("contact", "grasped", "other_contact", "other_grasped", "success")
    }
    return facts_of(**{k: (draw(v), draw(v)) for k, v in columns.items()})


@settings(max_examples=400, deadline=None)
@given(
    facts=random_facts(),
    verb=st.sampled_from(VERBS),
    noun=st.sampled_from(phrases.NOUNS),
    seed=st.integers(0, 2**31),
)
def test_every_thought_maps_back_to_its_claims(facts, verb, noun, seed):
    truth = claims.measure(facts, verb, 0, 1)
    thought = thoughts.write(truth, verb, noun, np.random.default_rng(seed))
    stated = claims.extract(thought)
    assert stated == truth
    assert all(claims.check(thought, truth).values())
    assert claims.score(thought, truth) == 1.0


@settings(max_examples=100, deadline=None)
@given(facts=random_facts(), verb=st.sampled_from(VERBS), seed=st.integers(0, 2**31))
def test_false_thoughts_are_found_out(facts, verb, seed):
    rng = np.random.default_rng(seed)
    truth = claims.measure(facts, verb, 0, 1)
    kind = sorted(truth)[seed % len(truth)]
    others = [v for v in CLAIMS[kind] if v != truth[kind]]
    if not others:
        return
    lie = {**truth, kind: others[0]}
    thought = thoughts.write(lie, verb, "cube", rng)
    assert claims.check(thought, truth)[kind] is False
    assert claims.score(thought, truth) < 1.0


def test_measured_claims_follow_the_facts():
    facts = facts_of(
        distance=(0.2, 0.1),
        gap=(0.1, 0.1),
        act=(0.0, 0.3),
        progress=(0, 25),
        grasped=(0, 1),
    )
    assert claims.measure(facts, "lift", 0, 1) == {
        "motion": "nearer",
        "contact": "no",
        "grasp": "yes",
        "object": "toward",
        "state": "some",
        "remains": "act",
        "trend": "up",
    }
    back = claims.measure(facts, "lift", 1, 0)
    assert (back["motion"], back["object"], back["trend"]) == (
        "farther",
        "away",
        "down",
    )
    assert "object" not in claims.measure(facts, "reach", 0, 1)


def test_a_contradiction_is_never_true():
    stated = claims.extract("progress up, progress down")
    assert stated == {"trend": claims.CONFLICT}
    assert claims.check("progress up, progress down", {"trend": "up"}) == {
        "trend": False
    }


@pytest.mark.parametrize("text", ["", "the sky is blue", "gripper gripper", "up"])
def test_words_outside_the_grammar_state_nothing(text):
    assert claims.extract(text) == {}


def test_saying_everything_does_not_pay():
    truth = {"motion": "nearer", "contact": "no", "trend": "up"}
    assert claims.score("progress up", truth) == pytest.approx(1 / 3)
    assert claims.score("progress down, gripper nearer", truth) == 0.0
    assert claims.score("", truth) == 0.0


def test_no_two_claims_share_a_phrase_and_all_kinds_have_words():
    table = phrases.all_phrases()
    said = set(table.values())
    assert said == {(k, v) for k, values in CLAIMS.items() for v in values}
    assert not any(c in phrase for phrase in table for c in ",.;<>")


def test_thoughts_are_short_and_the_vocabulary_is_closed():
    rng = np.random.default_rng(0)
    words = set(" ".join(thoughts.vocabulary()).split())
    assert len(words) <= 250
    lengths = []
    for _ in range(300):
        facts = rng.normal(scale=0.3, size=(2, len(FACTS))).astype(np.float32)
        facts[:, FACTS.index("other_contact")] = 0
        facts[:, FACTS.index("other_grasped")] = 0
        verb = VERBS[rng.integers(len(VERBS))]
        thought = thoughts.write(claims.measure(facts, verb, 0, 1), verb, "cube", rng)
        assert set(thought.replace(",", "").split()) <= words
        lengths.append(len(thought.replace(",", " ,").split()))
    assert 10 <= np.mean(lengths) <= 22
