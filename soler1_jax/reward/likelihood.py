"""TOPReward's way: how likely a model finds the words that say that a task is done.

A video of an episode so far is followed by a statement that it shows the task done; r_t
is the log-probability of the affirmative answer to it. It is comparable between videos
only as far as the model is calibrated, so progress is where r_t lies between the lowest
and the highest of its episode, in percent. Online that can only be of the queries so far,
the first frame's among them; `settle` does it over the whole episode.
Source: TOPReward (arXiv 2602.19313) and its code release. Letters: B episodes, Q queries.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import (
    MAX_PROGRESS,
    Rewarder,
    Verdict,
    Views,
    certain_verdict,
)
from soler1_jax.data.qwen_images import video_grid, video_patches_on_device
from soler1_jax.model.functional import Functional
from soler1_jax.reward.film import Around, cut_text, encode_around
from soler1_jax.reward.history import History, begin, remember
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.reward.sole import require_qwen
from soler1_jax.reward.watching import Screen, Watcher, WatchSettings, fit
from soler1_jax.tokenizers.qwen import IM_END, VIDEO_PAD, VISION_END, VISION_START
from soler1_jax.tokenizers.readout_wording import ReadoutWording
from soler1_jax.tokenizers.slots import patch_times

# The rate at which the frames are said to follow each other. A lone last frame is shown
# twice, and its patch is dated as if the second one were another, as qwen-vl-utils does.
_FPS = 2.0
# For checkpoints that come without words of their own.
DEFAULT_WORDING = ReadoutWording(
    readout="likelihood",
    question=(
        "In this video a robot does the following to the very end: {task}. Is that "
        "True or False? It is"
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(WatchSettings):
    """What such a rewarder is shown; `frames` is a multiple of the frames in a patch."""

    frames: int = 16


class Asked(NamedTuple):
    """Prompts of B episodes, numpy."""

    around: Around
    answer: np.ndarray  # int32 [B], the token whose likelihood is read


class Watched(NamedTuple):
    """What is remembered of B episodes."""

    history: History
    asked: Asked
    lowest: jax.Array  # float32 [B], of r so far
    highest: jax.Array  # float32 [B]


def make_likelihood_rewarder(
    vlm: PretrainedVLM, name: str, settings: LikelihoodSettings | None = None
) -> Rewarder:
    """Wraps a Qwen3-VL in the contract of `common.rewarder`.

    `Verdict.logprob` is r_t.

    Args:
      vlm: of `load_vlm`, with its folder's tokenizer and processor.
      name: what the user called it.
      settings: what it is shown.

    Raises:
      UserError: the model is of another family or has no head over words.
    """
    settings = settings or LikelihoodSettings()
    require_qwen(vlm.config, name)
    asker = _Asker(vlm, name, settings)
    return Rewarder(
        params=vlm.params,
        name=name,
        views=(settings.view,),
        image_size=settings.image_size,
        uses_truth=False,
        start=asker.start,
        score=asker.score,
        prepare=asker.prepare,
        decode=lambda tokens: "",
        fit=lambda frames: fit(frames, settings.short_side),
        settle=settle,
    )


class _Asker:
    """One rewarder's functions, and the constants that they share."""

    def __init__(
        self, vlm: PretrainedVLM, name: str, settings: LikelihoodSettings
    ) -> None:
        video = vlm.processor.video
        self.each = video.temporal_patch_size
        if settings.frames % self.each:
            raise UserError(
                f"a patch of a video has {self.each} frames; got frames "
                f"{settings.frames}; choose a multiple"
            )
        if vlm.config.heads is not None:
            raise UserError(
                f"a likelihood is read from a model of words; {name} has read-out "
                "heads in their place; leave --readout out"
            )
        self.vlm, self.settings = vlm, settings
        words = vlm.wording
        likely = isinstance(words, ReadoutWording) and words.readout == "likelihood"
        self.wording = words if likely else DEFAULT_WORDING
        count = settings.frames
        self.times = patch_times(range(count), _FPS, self.each)
        screen = Screen(
            frames=tuple(self._cut("")[1]),
            pad=VIDEO_PAD,
            grid_of=lambda h, w: (1, *video_grid(count, h, w, video)[1:]),
            cut=self._patches,
        )
        self.watcher = Watcher(vlm, screen, count)

    def prepare(self, sentences: list[str]) -> Asked:
        """See `Rewarder.prepare`."""
        cuts = [self._cut(sentence) for sentence in sentences]
        heads, tails = zip(*((head, tail) for head, _, tail in cuts), strict=True)
        around = encode_around(self.vlm.tokenizer, heads, tails)
        # The last token of the answer is what is asked for, and not shown.
        last = around.tail_mask.sum(axis=1) - 1
        rows = np.arange(len(sentences))
        answer = around.tail[rows, last]
        mask = around.tail_mask.copy()
        mask[rows, last] = False
        return Asked(around._replace(tail_mask=mask), answer)

    def start(self, params: Any, views: Views, task: Asked, key: jax.Array) -> Watched:
        """See `Rewarder.start`."""
        history = begin(views[self.settings.view], self.settings.capacity)
        likelihood = self._read(params, history, task)
        return Watched(history, task, likelihood, likelihood)

    def score(
        self, params: Any, state: Watched, views: Views, key: jax.Array, truth: None
    ) -> tuple[Watched, Verdict]:
        """See `Rewarder.score`."""
        history = remember(state.history, views[self.settings.view])
        likelihood = self._read(params, history, state.asked)
        lowest = jnp.minimum(state.lowest, likelihood)
        highest = jnp.maximum(state.highest, likelihood)
        verdict = certain_verdict(_percent(likelihood, lowest, highest, jnp))
        verdict = verdict.replace(logprob=likelihood)
        return Watched(history, state.asked, lowest, highest), verdict

    def _read(self, params: Any, history: History, asked: Asked) -> jax.Array:
        """r of the frames so far: float32 [B]."""
        bound = Functional(self.vlm.config).module(params)
        prefix, _ = self.watcher.look(bound, history, asked.around, self.each)
        hidden = bound.hidden_at(prefix, prefix.last[:, None])[:, 0]
        likely = jax.nn.log_softmax(bound.next_logits(hidden), axis=-1)
        return jnp.take_along_axis(likely, asked.answer[:, None], axis=1)[:, 0]

    def _cut(self, sentence: str) -> tuple[str, list, str]:
        """Head, frames and tail of a prompt with its answer."""
        question = self.wording.ask(sentence)
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = self.vlm.processor.template.render(
            [{"role": "user", "content": content}],
            add_generation_prompt=self.wording.closed,
        )
        if not self.wording.closed:
            text = text.rpartition(IM_END)[0]
        slot = f"{VISION_START}{VIDEO_PAD}{VISION_END}"
        film = "".join(f"<{seconds:.1f} seconds>{slot}" for seconds in self.times)
        text = text.replace(slot, film, 1) + self.wording.answer
        return cut_text(text, len(self.times), VISION_END)

    def _patches(self, frames: jax.Array) -> jax.Array:
        values = video_patches_on_device(frames, self.vlm.processor.video)
        pictures = frames.shape[0] * len(self.times)
        return values.reshape(pictures, -1, values.shape[-1])


def settle(start: Watched, said: Verdict) -> np.ndarray:
    """Progress of one whole episode, once it is over; on the host.

    Args:
      start: the state of that episode after `start`, without a batch axis.
      said: its Q verdicts.

    Returns:
      float32 [Q], percent between the lowest and the highest r, the first frame's too.
    """
    likely = np.asarray(said.logprob)
    every = np.append(likely, start.lowest)
    return _percent(likely, every.min(), every.max(), np).astype(np.float32)


def _percent(likely: Any, lowest: Any, highest: Any, library: Any) -> Any:
    """Where r lies in a range; the top of a range that is a point."""
    width = highest - lowest
    share = (likely - lowest) / library.where(width > 0, width, 1.0)
    return MAX_PROGRESS * library.where(width > 0, share, 1.0)
