"""Answers to questions follow from where things were put."""

import dataclasses

import numpy as np
import pytest

from soler1_jax.data import records, text
from soler1_jax.envs.tasks import TASKS
from soler1_jax.synthesis import episodes, questions, spatial, temporal
from soler1_jax.synthesis.look import Look

SIZE = 32
NAMES = ("", "gripper", "red cube", "blue ball", "plate", "drawer", "door", "")


def scene(seed: int, level: int = 0) -> records.Episode:
    """Rectangles of 3 x 3 pixels at random places, facts that fit, five frames."""
    rng = np.random.default_rng(seed)
    semantic = np.zeros((5, SIZE, SIZE), np.uint8)
    facts = rng.uniform(-0.3, 0.3, (5, len(records.FACTS))).astype(np.float32)
    facts[:, records.FACTS.index("progress")] *= 300
    for name in ("slide", "hinge"):
        facts[:, records.FACTS.index(name)] = rng.uniform(0, 1, 5)
    for frame in range(5):
        cells = rng.choice(64, 6, replace=False)
        for thing, cell in zip(range(1, 7), cells, strict=True):
            row, column = divmod(int(cell), 8)
            semantic[frame, row * 4 : row * 4 + 3, column * 4 : column * 4 + 3] = thing
    return records.Episode(
        name="scene",
        task="lift-red-cube",
        sentence="Lift the red cube.",
        family="lift",
        verb="lift",
        noun="cube",
        split="train",
        level=level,
        stride=5,
        external=np.zeros((5, SIZE, SIZE, 3), np.uint8),
        wrist=None,
        wrist_semantic=None,
        semantic=semantic,
        names=NAMES,
        named=2,
        colors=np.array([6, 6, 0, 2, 6, 6, 6, 6], np.int32),
        shapes=np.array([3, 3, 0, 1, 3, 3, 3, 3], np.int32),
        facts=facts,
        queries=(),
    )


def middle(episode, frame, name):
    """Mean column and row of a named thing's pixels, by another route."""
    hits = np.argwhere(episode.semantic[frame] == NAMES.index(name))
    return hits[:, 1].mean(), hits[:, 0].mean()


def many(maker, two=False):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        episode = scene(seed)
        frames = (0, 2) if two else (1,)
        question = maker(*(Look(episode, f) for f in frames), rng)
        if question is not None:
            yield episode, question


def test_left_and_right_follow_the_pixels():
    answers = []
    for episode, q in many(spatial.side):
        ax, _ = middle(episode, 1, q.truth["a"])
        bx, _ = middle(episode, 1, q.truth["b"])
        assert (ax < bx) == (q.answer == "left")
        assert q.truth["a"] in q.prompt and q.truth["b"] in q.prompt
        answers.append(q.answer)
    assert {"left", "right"} == set(answers)


def test_distances_follow_the_facts():
    keys = {"red cube": "object0", "blue ball": "object1", "plate": "plate"}
    keys |= {"drawer": "handle", "door": "handle"}
    seen = 0
    for episode, q in many(spatial.closer):
        gaps = {
            side: np.linalg.norm(
                episode.position("gripper")[1]
                - episode.position(keys[q.truth[side]])[1]
            )
            for side in ("a", "b")
        }
        seen += 1
        assert q.answer == q.truth["a" if gaps["a"] < gaps["b"] else "b"]
    assert seen > 3
    for _, q in many(spatial.distance):
        assert abs(int(q.answer) - 100 * q.truth["m"]) <= 2.5 + 1e-3


def test_depth_order_is_along_the_view():
    for episode, q in many(spatial.depth):
        assert q.answer == (
            q.truth["a"] if q.truth["ay"] < q.truth["by"] else q.truth["b"]
        )
        del episode


def test_colours_and_shapes_belong_to_the_right_object():
    for episode, q in many(spatial.color):
        red, blue = (middle(episode, 1, n)[0] for n in ("red cube", "blue ball"))
        leftmost = "red" if red < blue else "blue"
        assert (q.answer == leftmost) == (q.truth["side"] == "left")
    for _, q in many(spatial.shape):
        assert q.answer == {"red": "cube", "blue": "ball"}[q.truth["color"]]


def test_what_moved_is_what_moved_most():
    episode = scene(0)
    for name in ("object0", "object1"):
        column = records.FACTS.index(f"{name}_x")
        episode.facts[:, column : column + 3] = 0.1
    for name in ("slide", "hinge"):
        episode.facts[:, records.FACTS.index(name)] = 0.5
    looks = Look(episode, 0), Look(episode, 3)
    rng = np.random.default_rng(0)
    told = [temporal.moved(*looks, rng) for _ in range(20)]
    assert {q.answer for q in told if q} == {"nothing"}
    episode.facts[3, records.FACTS.index("slide")] = 0.9
    assert temporal.moved(*looks, rng).answer == "drawer"
    episode.facts[3, records.FACTS.index("object1_x")] = 0.3
    assert temporal.moved(*looks, rng).answer == "blue ball"
    drawer = dataclasses.replace(episode, names=(*NAMES[:6], "", ""))
    asked = temporal.fixture(Look(drawer, 0), Look(drawer, 3), rng)
    assert asked is None, "closing drawers are not trained"
    lid = dataclasses.replace(episode, names=(*NAMES[:5], "lid", *NAMES[6:]))
    answer = temporal.fixture(Look(lid, 0), Look(lid, 3), rng).answer
    assert answer == "opened"


def test_further_and_first_follow_progress():
    for episode, q in many(temporal.further, two=True):
        change = episode.progress[2] - episode.progress[0]
        assert q.answer == ("second" if change > 0 else "first")
    early, late = Look(scene(1), 0), Look(scene(1), 4)
    for look, value in ((early, 0.0), (late, 60.0)):
        look.episode.facts[:, records.FACTS.index("progress")] = [0, 15, 30, 45, 60]
        assert look.fact("progress") == value
    rng = np.random.default_rng(0)
    assert temporal.order(early, late, rng).answer == "first"
    assert temporal.order(late, early, rng).answer == "second"
    careless = Look(scene(1, level=6), 0)
    assert temporal.order(careless, Look(careless.episode, 4), rng) is None


def test_directions_name_the_largest_shift():
    words = {(0, 0): "left", (0, 1): "right", (1, 0): "near", (1, 1): "away"}
    words |= {(2, 0): "down", (2, 1): "up"}
    for _, q in many(temporal.direction, two=True):
        assert q.answer == words[q.truth["axis"], int(q.truth["shift"] > 0)]


def test_no_answer_tells_of_an_unseen_motion():
    verbs = {way: f"push_{way}" for way in ("left", "right", "near", "away")}
    verbs |= {"up": "lift", "down": "place"}
    unseen = {(t.verb, t.noun) for t in TASKS if t.split == "unseen"}
    told = set()
    for _, q in many(temporal.direction, two=True):
        told.add((verbs[q.answer], q.truth["a"]))
    assert not told & unseen
    assert len({noun for _, noun in told}) == 3


@pytest.mark.parametrize(("source", "shown"), [("spatial", 1), ("temporal", 2)])
def test_queries_are_distinct_and_show_the_right_number_of_frames(source, shown):
    made = questions.ask(scene(5), 6, source, np.random.default_rng(0))
    assert len(made) == 6
    assert len({(q.prev, q.cur, q.prompt) for q in made}) == 6
    for query in made:
        frames = [f for f in (query.first, query.prev, query.cur) if f >= 0]
        assert len(frames) == shown
        rationale, answer = text.split_completion(query.completion)
        assert answer == query.claims["answer"] and rationale
        assert len(answer.split()) <= 3


def test_a_touch_of_the_wrong_object_is_asked_about_more_often():
    facts = np.zeros((9, len(records.FACTS)), np.float32)
    facts[6, records.FACTS.index("other_contact")] = 1.0
    episode = dataclasses.replace(scene(0), facts=facts)
    task = next(t for t in TASKS if t.name == "lift-red-cube")
    asked = np.zeros(9)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        for query in episodes.progress_queries(episode, task, rng):
            asked[query.cur] += query.prev < query.cur - 1
    assert asked[6] > 1.5 * max(asked[5], asked[7])
