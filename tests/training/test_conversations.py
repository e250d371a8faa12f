"""Records as conversations: what is learnt is what is asked, and answers read back."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_released
from PIL import Image

from soler1_jax.common.errors import UserError
from soler1_jax.data.packing import size_of
from soler1_jax.data.row_room import RowShape
from soler1_jax.reward import parse
from soler1_jax.reward.pretrained import load_vlm
from soler1_jax.reward.question import fill
from soler1_jax.reward.sole import DEFAULT_WORDING, SoleSettings, make_sole_rewarder
from soler1_jax.training.conversations import Asking, Chats, Recorded
from soler1_jax.training.examples import Examples

VIEWS = ("external_and_wrist", "external", "wrist")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = tiny_released.write(tmp_path_factory.mktemp("model") / "tiny")
    return load_vlm(folder, "float32")


@pytest.mark.parametrize("views", VIEWS)
def test_a_query_is_what_the_rewarder_asks(views, vlm, episodes):
    episode, query = episodes[0], episodes[0].queries[1]
    asking = Asking(wording=DEFAULT_WORDING, views=views)
    inputs = vlm.processor(
        asking.messages(episode, query), asking.images(episode, query)
    )
    rewarder = make_sole_rewarder(vlm, "tiny", SoleSettings(views=views, budget=2))
    asked = fill(
        rewarder.prepare([episode.sentence]),
        np.float32([query.previous]),
        len(inputs.image_patches) // 4,
    )
    np.testing.assert_array_equal(
        np.asarray(asked.ids)[np.asarray(asked.mask)], inputs.ids
    )


def test_a_picture_shows_first_previous_and_current_frame(episodes):
    episode, query = episodes[0], episodes[0].queries[2]
    frames = [query.first, query.prev, query.cur]
    assert frames == [0, 2, 3]
    asking = Asking(wording=DEFAULT_WORDING)
    (picture,) = asking.images(episode, query)
    assert [picture.shape[:2]] == asking.picture_sizes(episode, query)
    height, width = picture.shape[:2]
    for row, view in enumerate((episode.external, episode.wrist)):
        for column, frame in enumerate(frames):
            middle = picture[
                round(height * (row + 0.5) / 2), round(width * (column + 0.5) / 3)
            ]
            near = view[frame][6:10, 6:10].reshape(-1, 3).astype(int)
            # enlarged pixels, a little blurred by the second resizing
            assert np.abs(near - middle).max(axis=1).min() <= 16, (view, column)


def test_views_without_words_are_one_line():
    with pytest.raises(UserError, match="external_from_zero"):
        Asking(wording=DEFAULT_WORDING, from_zero=True, views="external")
    with pytest.raises(UserError, match="looks through"):
        Asking(wording=DEFAULT_WORDING, views="front")


@pytest.mark.parametrize("views", VIEWS)
def test_replies_read_back(views, episodes):
    asking = Asking(wording=DEFAULT_WORDING, views=views)
    for query in episodes[0].queries:
        said = parse.read(asking.reply(query))
        if query.source == "progress":
            assert said.progress == query.progress
        assert said.thought == parse.read(query.completion).thought


def test_questions_show_their_frames(episodes):
    asking = Asking(wording=DEFAULT_WORDING)
    episode = episodes[1]
    (query,) = [q for q in episode.queries if q.source == "temporal"]
    talk = asking.converse(episode, query)
    assert len(talk.images) == 1 and talk.source == "temporal"
    np.testing.assert_array_equal(talk.images[0], episode.external[1])
    content = talk.messages[-1]["content"]
    assert [part["type"] for part in content] == ["image", "text"]
    assert content[-1]["text"] == query.prompt


@pytest.fixture
def chat_file(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 70, 3)), ("b.png", (64, 64, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / name)
    turn = {"type": "image"}
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [turn, turn, {"type": "text", "text": "hi"}],
                },
                {"role": "assistant", "content": "a cube"},
            ],
            "images": ["a.png", "b.png"],
            "source": "spatial",
        },
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
            ]
        },
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_sizes_are_known_before_pixels_are_read(vlm, episodes, chat_file):
    asking = Asking(wording=DEFAULT_WORDING)
    examples = Examples(vlm, [Recorded(episodes[:2], asking), Chats(chat_file)])
    assert examples.sources[-2:] == ["spatial", "chat"]
    for index, size in enumerate(examples.sizes):
        example = examples[index]
        assert size_of(example) == size
        ids = example.prompt.ids[0]
        learnt = vlm.tokenizer.decode(ids[example.weights > 0].tolist())
        assert ids[-1] == vlm.stop_ids[0] and example.weights[-1] == 1
        assert learnt.startswith(("<think>", "a cube", "yes"))
        before = vlm.tokenizer.decode(ids[example.weights == 0].tolist())
        assert before.endswith("<|im_start|>assistant\n")


def test_rows_hold_the_examples_asked_for(vlm, chat_file):
    examples = Examples(vlm, [Chats(chat_file)])
    shape = RowShape(rows=2, length=64, pictures=1, patches=64, shared=True)
    rows = examples.rows([[1, 0], [1]], shape)
    assert rows.segments.max(axis=1).tolist() == [2, 1]
    alone = examples[0].prompt.ids[0]
    np.testing.assert_array_equal(rows.ids[0][rows.segments[0] == 2], alone)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("not json", "line 1 of"),
        ("{}", "line 1 of"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 1 of"),
        ('{"messages": [1, 2]}', "line 1 of"),
        ("", "is empty"),
    ],
)
def test_broken_files_are_one_line(line, rule, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=rule):
        Chats(path)
    with pytest.raises(UserError, match="is not there"):
        Chats(tmp_path / "none.jsonl")


def test_a_missing_picture_is_one_line(chat_file):
    (chat_file.parent / "a.png").unlink()
    with pytest.raises(UserError, match="a picture must be readable"):
        Chats(chat_file).outline(0)


def test_records_without_a_wrist_view_are_one_line(episodes):
    bare = dataclasses.replace(episodes[0], wrist=None, wrist_semantic=None)
    asking = Asking(wording=DEFAULT_WORDING)
    with pytest.raises(UserError, match="has no wrist; choose --views external"):
        asking.images(bare, bare.queries[0])
