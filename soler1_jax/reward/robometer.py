"""Robometer's way: heads on marker tokens behind the frames of an episode so far.

The prompt holds the task, then each frame with a marker behind it. What is read at a
marker depends on no later frame, so one pass says how the task stands at each; a query
reads the current frame's, the last. Letters: B episodes, N frames, K bins.
Source: Robometer (arXiv 2603.02115) and its code release: which tokens, heads, sampling of
frames and sizes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import (
    MAX_PROGRESS,
    Rewarder,
    Verdict,
    Views,
    certain_verdict,
    entropy,
    two_hot,
)
from soler1_jax.data.patches import PatchConfig
from soler1_jax.data.qwen_images import image_grid, image_patches_on_device
from soler1_jax.model.functional import Functional
from soler1_jax.model.heads import progress_shares
from soler1_jax.reward.film import Around, cut_text, encode_around
from soler1_jax.reward.history import History, begin, remember
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.reward.watching import Screen, Watcher, WatchSettings, fit
from soler1_jax.tokenizers.qwen import IMAGE_PAD
from soler1_jax.tokenizers.readout_wording import ReadoutWording
from soler1_jax.tokenizers.wording import WORDING

MARKER = "<|prog_token|>"
PREFERENCE = "<|pref_token|>"
# Bounds of a picture's area in merged tokens, those of qwen-vl-utils.
_TOKENS = (4, 16384)
# For checkpoints that come without words of their own.
DEFAULT_WORDING = ReadoutWording(
    readout="heads",
    question=(
        "A robot is to do this: {task}. Judge after every picture how far it has come, "
        "from 0 at the start to 1 when the task is done; 0 if it does something else."
    ),
    preference=(
        "Two robots are to do this: {task}. The first: {first}<|split_token|>The "
        "second: {second}Which one came farther?<|pref_token|>"
    ),
)


class Watched(NamedTuple):
    """What is remembered of B episodes."""

    history: History
    around: Around


def make_robometer(
    vlm: PretrainedVLM, name: str, settings: WatchSettings | None = None
) -> Rewarder:
    """Wraps a model with read-out heads in the contract of `common.rewarder`.

    Progress is what the heads say of the current frame, from 0 to 100 percent; that of
    the first frame is 0 by definition, and the model is not asked.

    Args:
      vlm: of `load_vlm`, with its folder's tokenizer and processor.
      name: what the user called it.
      settings: what it is shown.

    Raises:
      UserError: the checkpoint lacks heads or the marker, or its words are for another
        read-out.
    """
    settings = settings or WatchSettings()
    wording = heads_wording(vlm, name)
    picture = picture_config(vlm)

    def rendered(task: str) -> str:
        parts = [{"type": "text", "text": wording.ask(task)}, *framed(settings.frames)]
        return vlm.processor.template.render(
            [{"role": "user", "content": parts}], add_vision_id=True
        )

    screen = Screen(
        frames=tuple(cut_text(rendered(""), settings.frames, MARKER)[1]),
        pad=IMAGE_PAD,
        grid_of=lambda height, width: image_grid(height, width, picture),
        cut=lambda frames: jax.lax.collapse(
            image_patches_on_device(frames, picture), 0, 2
        ),
    )
    watcher = Watcher(vlm, screen, settings.frames)

    def prepare(sentences: list[str]) -> Around:
        cuts = [cut_text(rendered(s), settings.frames, MARKER) for s in sentences]
        return encode_around(
            vlm.tokenizer, *zip(*((h, t) for h, _, t in cuts), strict=True)
        )

    def start(params: Any, views: Views, task: Around, key: jax.Array) -> Watched:
        return Watched(begin(views[settings.view], settings.capacity), task)

    def score(
        params: Any, state: Watched, views: Views, key: jax.Array, truth: None
    ) -> tuple[Watched, Verdict]:
        history = remember(state.history, views[settings.view])
        bound = Functional(vlm.config).module(params)
        prefix, place = watcher.look(bound, history, state.around)
        said = bound.heads(bound.hidden_at(prefix, place[:, None])[:, 0])
        return Watched(history, state.around), _verdict(said.progress, said.success)

    return Rewarder(
        params=vlm.params,
        name=name,
        views=(settings.view,),
        image_size=settings.image_size,
        uses_truth=False,
        start=start,
        score=score,
        prepare=prepare,
        decode=lambda tokens: "",
        fit=lambda frames: fit(frames, settings.short_side),
    )


def heads_wording(vlm: PretrainedVLM, name: str) -> ReadoutWording:
    """The words of a model with heads; UserError if it cannot be asked by them."""
    if vlm.config.heads is None:
        raise UserError(
            f"this read-out needs a checkpoint with heads, such as Robometer's; {name} "
            "has none; leave it out"
        )
    if MARKER not in vlm.tokenizer.special_ids:
        raise UserError(
            f"a model with heads is read at {MARKER}, an added token; the tokenizer of "
            f"{name} lacks it; take the tokenizer.json of the same checkpoint"
        )
    wording = vlm.wording or DEFAULT_WORDING
    if not isinstance(wording, ReadoutWording) or wording.readout != "heads":
        raise UserError(
            f"a model with heads is asked by words for heads; the {WORDING} of {name} "
            "is for another read-out; replace it"
        )
    return wording


def picture_config(vlm: PretrainedVLM) -> PatchConfig:
    """How frames are cut: resized once, as qwen-vl-utils does it with PIL."""
    picture = vlm.processor.image
    least, most = (tokens * picture.factor**2 for tokens in _TOKENS)
    return dataclasses.replace(
        picture, min_pixels=least, max_pixels=most, resize=True, arithmetic="pillow"
    )


def framed(count: int) -> list[dict[str, str]]:
    """Parts of a message: frames with a marker behind each."""
    return [{"type": "image"}, {"type": "text", "text": MARKER}] * count


def _verdict(progress: jax.Array, success: jax.Array) -> Verdict:
    shares, values = progress_shares(progress)
    percent = MAX_PROGRESS * values
    distribution = jnp.einsum("bk,kn->bn", shares, two_hot(percent))
    return certain_verdict(shares @ percent).replace(
        distribution=distribution,
        entropy=entropy(distribution),
        success=jax.nn.sigmoid(success),
    )
