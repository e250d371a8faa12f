"""Prompts that show an episode's frames one after the other, laid out inside jit.

A prompt is a head, the frames with what stands around each, and a tail. Head and tail
differ between sentences and are encoded beforehand; what is around the frames does not,
and how many tokens a frame takes is known when its size is. Frames that an episode does
not have yet are masked out, with their words, and take no position.

Letters: B prompts, N places for frames, L tokens of the frames' part, K places for a
frame's merged tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.positions import IMAGE, WORD, locate, rope_positions
from soler1_jax.model.prompt import Prompt
from soler1_jax.tokenizers.padding import pad_rows
from soler1_jax.tokenizers.qwen import VISION_START, QwenTokenizer


class Frame(NamedTuple):
    """The words around one frame."""

    own: str  # up to what closes the frame, its pad token once
    after: str  # belongs to the next frame


class Around(NamedTuple):
    """Heads and tails of B prompts, numpy."""

    head: np.ndarray  # int32 [B, .], padded on the left
    head_mask: np.ndarray  # bool [B, .]
    tail: np.ndarray  # int32 [B, .], padded on the right
    tail_mask: np.ndarray  # bool [B, .]


@dataclasses.dataclass(frozen=True)
class Film:
    """The frames' part of a prompt, N of them.

    Attributes:
      ids: int32 [L].
      owner: int32 [L], the frame that a token is for.
      source: int32 [L], which of the N*K picture tokens; -1 for words.
      positions: int32 [3, L], from 0.
      starts: int32 [N+1], position at which a frame begins; the last is what follows.
      ends: int32 [N], place of the token that closes a frame.
      capacity: K.
    """

    ids: np.ndarray
    owner: np.ndarray
    source: np.ndarray
    positions: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    capacity: int


def cut_text(text: str, count: int, closing: str) -> tuple[str, list[Frame], str]:
    """Splits a rendered prompt into head, frames and tail.

    Args:
      text: with `count` pictures, a pad token each.
      count: N.
      closing: what ends a frame, after its pad token; a special token at its end.

    Raises:
      UserError: there are more or fewer pictures in it.
    """
    head, *parts = text.split(VISION_START)
    frames = []
    for part in parts:
        own, found, after = part.partition(closing)
        if found:
            frames.append(Frame(VISION_START + own + found, after))
    if len(parts) != count or len(frames) != count:
        raise UserError(
            f"a prompt for this rewarder shows {count} frames, each closed by "
            f"{closing}; got {len(parts)}, {len(frames)} of them closed; leave special "
            "tokens out of the task, and check chat template and words"
        )
    *before, last = frames
    return head, [*before, Frame(last.own, "")], last.after


def encode_around(
    tokenizer: QwenTokenizer, heads: Sequence[str], tails: Sequence[str]
) -> Around:
    """Encodes what stands around the frames of B prompts."""
    parts = []
    for texts, left in ((heads, True), (tails, False)):
        rows = [tokenizer.encode(text) for text in texts]
        length = max(map(len, rows))
        parts += pad_rows(rows, texts, length, pad_id=tokenizer.pad_id, left=left)
    return Around(*parts)


def make_film(
    config: ModelConfig,
    tokenizer: QwenTokenizer,
    frames: Sequence[Frame],
    pad: str,
    grid: tuple[int, int],
    capacity: int,
) -> Film:
    """Lays out the frames' part, on the host.

    Args:
      config: of the model.
      tokenizer: of its checkpoint.
      frames: N of `cut_text`.
      pad: the token that stands for a picture.
      grid: merged tokens down and across.
      capacity: K.
    """
    ids, owner, ends = [], [], []
    for k, frame in enumerate(frames):
        own = tokenizer.encode(frame.own.replace(pad, pad * int(np.prod(grid))))
        after = tokenizer.encode(frame.after)
        ends.append(len(ids) + len(own) - 1)
        ids += own + after
        owner += [k] * len(own) + [k + 1] * len(after)
    row, owner = np.array([ids], np.int32), np.array(owner, np.int32)
    kinds = np.where(row == tokenizer.token_id(pad), IMAGE, WORD)
    grids = np.tile(grid, (len(frames), 1))
    placement = locate(kinds, grids, np.zeros((0, 2), int))
    positions, following = rope_positions(placement, np.ones_like(row, bool), grids)
    firsts = [int(np.argmax(owner == k)) for k in range(len(frames))]
    return Film(
        ids=row[0],
        owner=owner,
        source=np.where(
            placement.frame < 0, -1, placement.frame * capacity + placement.offset
        )[0].astype(np.int32),
        positions=positions[0],
        starts=np.append(positions[0, 0, firsts], following[0]).astype(np.int32),
        ends=np.array(ends, np.int32),
        capacity=capacity,
    )


def lay_out(around: Around, film: Film, shown: jax.Array) -> Prompt:
    """Puts B prompts together; inside jit.

    Args:
      around: of B prompts.
      film: between their heads and tails; prompt b shows pictures b*N to b*N + N - 1.
      shown: int32 [B], how many of its frames each shows, 1 or more.

    Returns:
      The prompts. Frame k's closing token is at `film.ends[k]` past the head's places.
    """
    batch, count = len(shown), len(film.ends)
    ids = jnp.broadcast_to(film.ids, (batch, len(film.ids)))
    start = jnp.sum(around.head_mask, axis=1, dtype=jnp.int32)
    follow = start + jnp.asarray(film.starts)[shown]
    head, tail = (
        jnp.cumsum(m, axis=1) - 1 for m in (around.head_mask, around.tail_mask)
    )
    words = jnp.maximum(head, 0), follow[:, None] + jnp.maximum(tail, 0)
    before, after = (jnp.repeat(w[:, None], 3, axis=1) for w in words)
    middle = start[:, None, None] + film.positions
    shift = jnp.arange(batch)[:, None] * (count * film.capacity)
    source = jnp.where(film.source >= 0, film.source + shift, -1)
    pads = (around.head.shape[1], around.tail.shape[1])
    length = around.tail_mask.sum(axis=1)
    return Prompt(
        ids=jnp.concatenate([around.head, ids, around.tail], axis=1),
        mask=jnp.concatenate(
            [around.head_mask, film.owner < shown[:, None], around.tail_mask], axis=1
        ),
        positions=jnp.concatenate([before, middle, after], axis=2).astype(jnp.int32),
        source=jnp.pad(source, ((0, 0), pads), constant_values=-1),
        last=(pads[0] + len(film.ids) + length - 1).astype(jnp.int32),
        next_position=follow + length.astype(jnp.int32),
    )
