"""Conversations as token ids, weights and patches for a released model."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from soler1_jax.common.errors import UserError
from soler1_jax.common.progress import Bar
from soler1_jax.data.packing import (
    Example,
    PackedRows,
    RowShape,
    fill_rows,
    make_example,
)
from soler1_jax.data.qwen_images import image_grid
from soler1_jax.data.row_room import Size
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.tokenizers.slots import expand_slots
from soler1_jax.training.conversations import Conversation, Outline


class Conversations(Protocol):
    """Random access to conversations, with and without their pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation: ...

    def outline(self, index: int) -> Outline:
        """Conversation `index` without pixels."""


class Examples:
    """Random access to conversations as a model takes them.

    Attributes:
      sizes: of each example, what it takes of a row.
      sources: of each, as mixtures name them.

    Args:
      vlm: whose tokenizer, template and picture rules to use.
      parts: collections of conversations, joined one after the other.
      replies: whether an example ends with its reply, which then counts; otherwise it
        is a prompt.
    """

    def __init__(
        self, vlm: PretrainedVLM, parts: Sequence[Conversations], replies: bool = True
    ) -> None:
        if not vlm.stop_ids:
            raise UserError(
                f"a model is taught where to stop; {vlm.folder} names no token that ends "
                "a turn; add eos_token_id to its generation_config.json"
            )
        self._vlm, self._parts, self._replies = vlm, parts, replies
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._starts: list[int] = []
        self.sizes: list[Size] = []
        self.sources: list[str] = []
        for part in parts:
            self._starts.append(len(self.sizes))
            with Bar("counting tokens", len(part), "examples") as bar:
                for index in range(len(part)):
                    outline = part.outline(index)
                    self.sizes.append(self._size(outline))
                    self.sources.append(outline.source)
                    bar.update(index + 1)
        if not self.sizes:
            raise UserError("training needs examples; the data has none; give others")

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Example:
        """Example `index`."""
        part, inside = self.find(index)
        talk = part[inside]
        processor = self._vlm.processor
        inputs = processor(talk.messages, talk.images)
        reply = self._reply(talk.reply)
        weights = [0.0] * len(inputs.ids) + [1.0] * len(reply)
        pictures: dict[str, Any] = {}
        if talk.images:
            pictures = {
                "pixel_values": inputs.image_patches,
                "image_grid_thw": inputs.image_grids,
            }
        ids = [*inputs.ids.tolist(), *reply]
        return make_example(self._vlm.config, ids, weights, **pictures)

    def find(self, index: int) -> tuple[Conversations, int]:
        """The collection that holds an example, and its place there."""
        which = sum(start <= index for start in self._starts) - 1
        return self._parts[which], index - self._starts[which]

    def rows(self, rows: Sequence[Sequence[int]], shape: RowShape) -> PackedRows:
        """A batch with given examples in given rows, made by several threads.

        Args:
          rows: of `order.Plan`, or a part of them.
          shape: of the whole batch.
        """
        numbers = [index for row in rows for index in row]
        made = dict(
            zip(numbers, self._pool.map(self.__getitem__, numbers), strict=True)
        )
        laid = [[made[index] for index in row] for row in rows]
        return fill_rows(laid, self._vlm.config, shape)

    def _reply(self, reply: str) -> list[int]:
        if not self._replies:
            return []
        return [*self._vlm.tokenizer.encode(reply), self._vlm.stop_ids[0]]

    def _size(self, outline: Outline) -> Size:
        processor = self._vlm.processor
        grids = [image_grid(*size, processor.image) for size in outline.picture_sizes]
        text = processor.template.render(outline.messages, add_generation_prompt=True)
        text = expand_slots(text, grids, merge_size=processor.image.merge_size)
        tokens = len(processor.tokenizer.encode(text)) + len(self._reply(outline.reply))
        return Size(tokens, tuple(height * width for _, height, width in grids))
