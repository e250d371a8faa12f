"""Records as conversations with a released model: what it is shown, asked, and replies.

A progress query is what `reward/sole.py` asks of a trained model: the same picture (first,
previous and current frame side by side, a row a view), the same words with the previous
progress in them, and the thought and number between the checkpoint's own tags. A question
about frames shows them one by one. Other conversations come from a file, see `read_chats`.

Source: arXiv 2603.28730, sections 2, 4 and 5, and its code release (layout and words).
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.progress import Bar
from soler1_jax.data import text
from soler1_jax.data.qwen_images import read_image, read_image_size
from soler1_jax.data.records import Episode, Query
from soler1_jax.data.video import letterbox
from soler1_jax.reward import composite
from soler1_jax.reward.sole import SHOWN
from soler1_jax.tokenizers.chat import Message
from soler1_jax.tokenizers.wording import VIEWS, Wording

_QUESTION_FRAMES = ("first", "prev", "cur")


class Outline(NamedTuple):
    """A conversation without its pixels."""

    messages: list[Message]  # all turns before the reply
    picture_sizes: list[tuple[int, int]]  # height and width
    reply: str
    source: str  # what kind of example it is


class Conversation(NamedTuple):
    """One example for supervised training."""

    messages: list[Message]  # all turns before the reply
    images: list[np.ndarray]  # uint8 [H, W, 3], in the order in which they are shown
    reply: str
    source: str  # what kind of example it is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """How records are put into words.

    Attributes:
      wording: the checkpoint's.
      views: one of `tokenizers.wording.VIEWS`.
      from_zero: show neither the previous frame nor its progress.
    """

    wording: Wording
    views: str = "external_and_wrist"
    from_zero: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for views that there are not, or without words for them."""
        if self.views not in VIEWS:
            raise UserError(
                f"a rewarder looks through {', '.join(VIEWS)}; got {self.views!r}; "
                "choose one of these"
            )
        self.wording.question(self.views, "", None if self.from_zero else "0")

    @property
    def shown(self) -> tuple[str, ...]:
        """Views in the picture of a progress query."""
        return SHOWN[self.views]

    def picture_sizes(self, episode: Episode, query: Query) -> list[tuple[int, int]]:
        """Height and width of each picture of `converse`, without making one."""
        if query.source != "progress":
            size = episode.external.shape[1:3]
            return [size] * len(_frames(query))
        columns = 2 if self.from_zero else 3
        size = composite.picture_size(len(self.shown), columns)
        return [composite.stored_size(*size)]

    def messages(self, episode: Episode, query: Query) -> list[Message]:
        """The turns before the reply."""
        if query.source != "progress":
            shown = [{"type": "image"} for _ in _frames(query)]
            words = query.prompt
        else:
            shown = [{"type": "image"}]
            previous = None if self.from_zero else str(query.previous)
            words = self.wording.question(self.views, episode.sentence, previous)
        content = [*shown, {"type": "text", "text": words}]
        turns: list[Message] = [{"role": "user", "content": content}]
        if self.wording.system and query.source == "progress":
            turns.insert(0, {"role": "system", "content": self.wording.system})
        return turns

    def images(self, episode: Episode, query: Query) -> list[np.ndarray]:
        """The pictures of a query, uint8 [H, W, 3]."""
        if query.source != "progress":
            return [episode.external[frame] for frame in _frames(query)]

        def views(frame: int) -> dict[str, np.ndarray]:
            return {
                v: letterbox(self._view(episode, v)[frame], composite.TILE)
                for v in self.shown
            }

        previous = None if self.from_zero else views(query.prev)
        picture = composite.compose(views(query.first), previous, views(query.cur))
        return [composite.as_stored(picture)]

    def _view(self, episode: Episode, view: str) -> np.ndarray:
        frames = getattr(episode, view)
        if frames is None:
            raise UserError(
                f"the picture has the views {', '.join(self.shown)}; record "
                f"{episode.name} has no {view}; choose --views external"
            )
        return frames

    def reply(self, query: Query) -> str:
        """Thought and answer in the checkpoint's tags; progress as a plain percent."""
        thought, answer = text.split_completion(query.completion)
        if query.source == "progress":
            answer = f"{query.progress}%"
        tags = self.wording.thought_tags or ("", "")
        words = " ".join(part for part in (tags[0], thought, tags[1]) if part)
        opening, closing = self.wording.answer_tags
        return f"{words} {opening}{answer}{closing}".strip()

    def outline(self, episode: Episode, query: Query) -> Outline:
        """The example without its pictures."""
        return Outline(
            self.messages(episode, query),
            self.picture_sizes(episode, query),
            self.reply(query),
            query.source,
        )

    def converse(self, episode: Episode, query: Query) -> Conversation:
        """The whole example."""
        return Conversation(
            self.messages(episode, query),
            self.images(episode, query),
            self.reply(query),
            query.source,
        )


class Recorded:
    """The queries of episodes as conversations, one after the other.

    Args:
      episodes: random access; each is read once for its texts.
      asking: how they are put into words.
      sources: which queries, e.g. ("progress",); all if empty.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        asking: Asking,
        sources: Collection[str] = (),
    ) -> None:
        self._episodes, self._asking = episodes, asking
        self._places: list[tuple[int, int]] = []
        self._outlines: list[Outline] = []
        with Bar("reading texts", len(episodes), "records") as bar:
            for e in range(len(episodes)):
                episode = episodes[e]
                for q, query in enumerate(episode.queries):
                    if not sources or query.source in sources:
                        self._places.append((e, q))
                        self._outlines.append(asking.outline(episode, query))
                bar.update(e + 1)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Conversation:
        """Conversation `index`, its pictures made."""
        return self._asking.converse(*self.query(index))

    def outline(self, index: int) -> Outline:
        """The same without pictures."""
        return self._outlines[index]

    def query(self, index: int) -> tuple[Episode, Query]:
        """The record and the query behind conversation `index`."""
        e, q = self._places[index]
        episode = self._episodes[e]
        return episode, episode.queries[q]


def _frames(query: Query) -> list[int]:
    """Frames that a question shows, in the order in which its words name them."""
    frames = [getattr(query, name) for name in _QUESTION_FRAMES]
    return [frame for frame in frames if frame >= 0]


class Chats:
    """Conversations of a JSON-lines file.

    Every line is an object

        {"messages": [{"role": "user", "content": ...}, ..., {"role": "assistant", ...}],
         "images": ["a.png", ...], "source": "spatial"}

    with messages as in `tokenizers/chat.py`; the last one is what is learnt. Paths of
    images are relative to the file; `source` (by default "chat") is what mixtures weigh.

    Args:
      path: the file.

    Raises:
      UserError: it is missing, or a line is not such an object.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"a file of conversations is needed; {path} is not there")
        lines = self.path.read_text(encoding="utf-8").splitlines()
        self._rows = [
            self._parsed(line, number)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
        if not self._rows:
            raise UserError(f"a file of conversations has some; {path} is empty")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Conversation:
        """Conversation `index`, its images read."""
        row = self._rows[index]
        *turns, last = row["messages"]
        images = [read_image(self.path.parent / name) for name in row["images"]]
        return Conversation(turns, images, _plain(last["content"]), row["source"])

    def outline(self, index: int) -> Outline:
        """The same without pictures, of which only the sizes are read."""
        row = self._rows[index]
        *turns, last = row["messages"]
        sizes = [read_image_size(self.path.parent / name) for name in row["images"]]
        return Outline(turns, sizes, _plain(last["content"]), row["source"])

    def _parsed(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            messages, images = row["messages"], row.get("images", [])
            source = row.get("source", "chat")
            last = messages[-1]
            fine = (
                len(messages) > 1
                and all(isinstance(turn["role"], str) for turn in messages)
                and all("content" in turn for turn in messages)
                and last["role"] == "assistant"
                and _plain(last["content"]) is not None
                and all(isinstance(name, str) for name in images)
                and isinstance(source, str)
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            fine = False
        if not fine:
            raise UserError(
                "a line of a conversation file is an object with messages, the last one "
                "the assistant's text, and images, a list of paths; line "
                f"{number} of {self.path} is not; correct it"
            )
        return {"messages": messages, "images": images, "source": source}


def _plain(content: Any) -> str | None:
    """The text of a turn that is nothing but text."""
    if isinstance(content, str):
        return content
    if all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return None
