"""Edited thoughts: one claim changes, and unedited ones end as the sampler ends them."""

import jax
import numpy as np
import pytest

from soler1_jax.data import batches, records, text
from soler1_jax.evals import intervention
from soler1_jax.model.functional import functional
from soler1_jax.model.presets import micro
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.synthesis import claims
from soler1_jax.tokenizers import sentencepiece
from soler1_jax.training import curriculum, supervise, validation

THOUGHT = (
    "gripper nearer, not touching, cube not held, it rests, partly done, worse now"
)


def test_an_edit_changes_one_claim_and_a_rewording_none():
    before = claims.extract(THOUGHT)
    edits = intervention.edits_of(THOUGHT, "lift", query=7)
    assert {e.kind for e in edits} == set(before)
    for edit in edits:
        assert edit.query == 7 and edit.thought != THOUGHT
        assert edit.before == before[edit.kind]
        assert claims.extract(edit.thought) == before | {edit.kind: edit.after}
    changed = {(e.kind, e.after) for e in edits if e.after != e.before}
    assert ("state", "done") in changed and ("grasp", "yes") in changed
    assert sum(e.after == e.before for e in edits) == len(before)


def test_clauses_outside_the_grammar_are_left_alone():
    assert intervention.edits_of("the weather is fine", "lift") == []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    said = [text.progress_completion(THOUGHT, value) for value in (40, -5)]
    return sentencepiece.train_tokenizer([*said, "lift the red cube"] * 4, path, 160)


def _episode(index, size):
    rng = np.random.default_rng(index)
    progress = np.linspace(0, 60, 4).astype(np.float32)
    facts = np.zeros((4, len(records.FACTS)), np.float32)
    facts[:, records.FACTS.index("progress")] = progress
    frames = rng.integers(0, 255, (4, size, size, 3), np.uint8)
    queries = tuple(
        records.Query(
            source="progress",
            prompt="lift the red cube",
            completion=text.progress_completion(THOUGHT, int(progress[t])),
            first=0,
            prev=t - 1,
            cur=t,
            progress=float(progress[t]),
            previous=float(progress[t - 1]),
            claims=claims.measure(facts, "lift", t - 1, t),
        )
        for t in (1, 2, 3)
    )
    return records.Episode(
        name=str(index),
        task="lift-red-cube",
        sentence="lift the red cube",
        family="lift",
        verb="lift",
        noun="cube",
        split="unseen",
        level=0,
        stride=5,
        external=frames,
        wrist=frames,
        wrist_semantic=np.zeros(frames.shape[:3], np.uint8),
        semantic=np.zeros(frames.shape[:3], np.uint8),
        names=("",) * 8,
        named=2,
        colors=np.zeros(8, np.int32),
        shapes=np.zeros(8, np.int32),
        facts=facts,
        queries=queries,
    )


@pytest.fixture(scope="module")
def world(tokenizer):
    model, params = functional(micro(tokenizer.vocab_size), seed=3)
    size = model.config.vision.image_size
    return model, params, [_episode(i, size) for i in range(3)]


def test_an_unedited_thought_ends_as_the_sampler_ended_it(world, tokenizer):
    model, params, episodes = world
    config = batches.BatchConfig(
        **curriculum.patches(model.config),
        **curriculum.lengths(episodes, tokenizer, 0.0),
    )
    budget = supervise.thought_budget(config)
    grammar = progress_grammar(model.config.text.vocab_size, budget)
    exam = validation.make_exam(episodes, tokenizer, config, len(episodes))
    (batch,) = exam.batches
    said = jax.device_get(validation.make_answer(model.module, grammar)(params, batch))
    lengths = np.argmax(said["tokens"] == sentencepiece.ANSWER, axis=1) + 1
    places = np.arange(said["tokens"].shape[1])
    written = np.where(places < lengths[:, None], said["tokens"], 0).astype(np.int32)
    finish = intervention.make_finish(model, grammar)
    number, expected = np.asarray(finish(params, batch, written, lengths)).T
    np.testing.assert_array_equal(number, said["progress"])
    np.testing.assert_allclose(expected, said["expected"], atol=1e-3)
    assert len(set(number)) > 1


def test_what_a_model_without_clear_thoughts_says_is_not_edited(world, tokenizer):
    assert intervention.intervene(*world[:2], tokenizer, world[2]) == {}


def test_figures_tell_a_reader_of_thoughts_from_one_who_ignores_them():
    edits = intervention.edits_of(THOUGHT, "lift")
    order = intervention.ORDERED["state"]
    heeds = [
        (e, np.full(2, 20.0 * (order.index(e.after) - order.index(e.before))))
        for e in edits
        if e.kind == "state"
    ]
    heeded = intervention._figures("state", heeds)
    assert heeded["edits"] == len(order) - 1
    assert heeded["number"] == pytest.approx(
        {"moved": 30.0, "reworded": 0.0, "slope": 20.0, "follows": 1.0, "still": 0.0}
    )
    ignores = [(e, np.zeros(2)) for e, _ in heeds]
    ignored = intervention._figures("state", ignores)["number"]
    assert ignored["still"] == 1 and ignored["follows"] == 0


@pytest.mark.slow
def test_a_thought_that_the_model_wrote_is_edited(world, tokenizer, monkeypatch):
    """With a sampler that writes THOUGHT, every claim of it is edited."""
    model, params, episodes = world

    def writes(bind, grammar):
        real = make(bind, grammar)

        def answer(params, batch):
            said = dict(real(params, batch))
            row = tokenizer.encode(text.progress_completion(THOUGHT, 40))
            return said | {"tokens": np.tile(row, (batch["progress"].size, 1))}

        return answer

    make = validation.make_answer
    monkeypatch.setattr(validation, "make_answer", writes)
    found = intervention.intervene(model, params, tokenizer, episodes, batch=2)
    assert set(found) == set(claims.extract(THOUGHT))
    assert found["state"]["edits"] == 9 * 4
    assert np.isfinite(found["state"]["number"]["moved"])
