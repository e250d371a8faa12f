"""A released SOLE-R1 (or any Qwen3-VL) as a rewarder inside compiled loops.

At each query the model sees one picture, first, previous and current frame side by side
(`composite`), reads the task and the progress that it stated last, and writes a thought
and an answer; the number is read and goes into the next question. All of it is one pure
function over arrays (arXiv 2603.28730, sections 2 and 4, and its code release).

Two things are done otherwise than in the release, where it has a fault. A text without a
readable number repeats the last valid progress, in the answer *and* in the next question;
there the raw text goes into the question. And decimals are read. Letters: B episodes, S
generated tokens, K places for a picture's merged tokens.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.checkpoints import hf_qwen3_vl
from soler1_jax.checkpoints.hf_config import family_of
from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.common.rewarder import Rewarder, Verdict, Views, certain_verdict
from soler1_jax.data.qwen_images import image_grid, image_patches_on_device
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.patches import Patches
from soler1_jax.reward import composite
from soler1_jax.reward.pictures import fill_layout, picture_layout
from soler1_jax.reward.pretrained import PretrainedVLM, require_generation
from soler1_jax.reward.question import Question, fill, make_questions
from soler1_jax.reward.spelling import read_number, spell, spelling
from soler1_jax.sampling.methods import Method
from soler1_jax.sampling.unconstrained import write
from soler1_jax.tokenizers.slots import expand_slots
from soler1_jax.tokenizers.wording import VIEWS, WORDING, Wording

# For checkpoints that come without words of their own.
DEFAULT_WORDING = Wording(
    templates={
        name: (
            "A robot is to do this: {task}. " + rows + " From left to right: the first "
            "frame, the previous frame, the current frame. At the previous frame you "
            "judged the progress to be {previous}%. Compare the frames in <think> and "
            "</think>, then write the progress at the current frame as a whole number "
            "from -100 to 100, like this: <answer>N%</answer>"
        )
        for name, rows in (
            (
                "external_and_wrist",
                "Upper row: a fixed camera. Lower row: the wrist's.",
            ),
            ("external", "The picture is from a fixed camera."),
            ("wrist", "The picture is from the camera on its wrist."),
        )
    },
    thought_tags=("<think>", "</think>"),
)
# How the release draws tokens.
RELEASED_METHOD = Method(temperature=1.0, top_k=50, top_p=0.9)
SHOWN = {
    "external_and_wrist": ("external", "wrist"),
    "external": ("external",),
    "wrist": ("wrist",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoleSettings:
    """How a released rewarder is asked.

    Attributes:
      views: one of `tokenizers.wording.VIEWS`.
      from_zero: show neither the previous frame nor what was stated of it.
      budget: S, the most tokens of an answer.
      method: how tokens are drawn; the release uses `RELEASED_METHOD`.
    """

    views: str = "external_and_wrist"
    from_zero: bool = False
    budget: int = 200
    method: Method = Method()

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("budget", self.budget)
        if self.views not in VIEWS:
            raise UserError(
                f"a rewarder looks through {', '.join(VIEWS)}; got {self.views!r}; "
                "choose one of these"
            )


class Watched(NamedTuple):
    """What is remembered of B episodes."""

    first: Views
    previous: Views
    previous_progress: jax.Array  # float32 [B], percent, as it was stated last
    question: Question


def make_sole_rewarder(
    vlm: PretrainedVLM, name: str, settings: SoleSettings | None = None
) -> Rewarder:
    """Wraps a released model in the contract of `common.rewarder`.

    Args:
      vlm: of `load_vlm`, with its folder's tokenizer and processor.
      name: what the user called it.
      settings: how it is asked.

    Raises:
      UserError: the checkpoint's words do not cover what is asked for, it is no Qwen3-VL,
        or it was loaded in bfloat16 on a CPU.
    """
    settings = settings or SoleSettings()
    require_qwen(vlm.config, name)
    require_generation(vlm.config)
    asker = _Asker(vlm, settings)
    return Rewarder(
        params={
            "model": vlm.params,
            "spelling": spelling(vlm.tokenizer, vlm.config.text.vocab_size),
        },
        name=name,
        views=asker.shown,
        image_size=composite.TILE,
        uses_truth=False,
        start=asker.start,
        score=asker.score,
        prepare=asker.prepare,
        decode=lambda tokens: vlm.tokenizer.decode(tokens, skip_special=True),
    )


class _Asker:
    """One rewarder's functions, and the constants that they share.

    Attributes:
      shown: views in the picture.
      grid: patches of the picture: 1, rows, columns.
      layout: where they lie.
      capacity: K.
    """

    def __init__(self, vlm: PretrainedVLM, settings: SoleSettings) -> None:
        if vlm.config.heads is not None:
            raise UserError(
                "a model with read-out heads writes no text; "
                f"{vlm.folder} has them; leave out how it is to write"
            )
        self.vlm, self.settings = vlm, settings
        self.wording = vlm.wording or DEFAULT_WORDING
        if not isinstance(self.wording, Wording):
            raise UserError(
                "a rewarder that writes its progress is asked for it in words; the "
                f"{WORDING} of {vlm.folder} asks for {self.wording.readout}; read it "
                "out that way, or give other words"
            )
        self.shown = SHOWN[settings.views]
        columns = 2 if settings.from_zero else 3
        picture = composite.picture_size(len(self.shown), columns)
        self.grid = image_grid(*composite.stored_size(*picture), vlm.processor.image)
        self.layout = picture_layout(vlm.config, self.grid)
        merged = vlm.config.vision.spatial_merge_size**2
        self.capacity = self.layout.mask.shape[1] // merged

    def prepare(self, sentences: list[str]) -> Question:
        """See `Rewarder.prepare`."""
        # Each is encoded for all percents, and many episodes share a sentence.
        distinct = list(dict.fromkeys(sentences))

        def encode(percent: int) -> list[list[int]]:
            previous = None if self.settings.from_zero else str(percent)
            asked = [
                self.wording.question(self.settings.views, sentence, previous)
                for sentence in distinct
            ]
            system = self.wording.system
            return [_encoded(self.vlm, system, words, self.grid) for words in asked]

        pad_id = self.vlm.tokenizer.pad_id
        questions = make_questions(self.vlm.config, encode, self.grid, pad_id)
        rows = np.array([distinct.index(sentence) for sentence in sentences])
        return jax.tree.map(lambda x: x[rows], questions)

    def start(
        self, params: Any, views: Views, task: Question, key: jax.Array
    ) -> Watched:
        """See `Rewarder.start`."""
        views = {view: views[view] for view in self.shown}
        return Watched(views, views, jnp.zeros(len(task.start)), task)

    def score(
        self, params: Any, state: Watched, views: Views, key: jax.Array, truth: None
    ) -> tuple[Watched, Verdict]:
        """See `Rewarder.score`."""
        views = {view: views[view] for view in self.shown}
        bound = Functional(self.vlm.config).module(params["model"])
        features = bound.encode_patches(self._see(state, views))
        prompt = fill(state.question, state.previous_progress, self.capacity)
        said = write(
            bound,
            bound.mix(prompt, features),
            key,
            length=self.settings.budget,
            stop_ids=self.vlm.stop_ids,
            method=self.settings.method,
        )
        text = spell(said.tokens, said.lengths, params["spelling"])
        number = read_number(text, self.wording.answer_tags[0])
        progress = jnp.where(number.found, number.value, state.previous_progress)
        verdict = certain_verdict(progress).replace(
            tokens=said.tokens,
            parsed=number.found,
            logprob=said.logprobs.sum(axis=1),
        )
        return Watched(state.first, views, progress, state.question), verdict

    def _see(self, state: Watched, views: Views) -> Patches:
        """The patches of each episode's picture."""
        previous = None if self.settings.from_zero else state.previous
        picture = jnp.asarray(composite.compose(state.first, previous, views))
        stored = composite.as_stored(picture)
        values = image_patches_on_device(stored, self.vlm.processor.image)
        return fill_layout(self.layout, values)


def require_qwen(config: ModelConfig, name: str) -> None:
    """Raises UserError for a released model that cannot be asked here."""
    if family_of(config) is not hf_qwen3_vl:
        raise UserError(
            f"a released rewarder is a Qwen3-VL; {name} is of another family; give "
            "another folder"
        )


def _encoded(
    vlm: PretrainedVLM, system: str | None, words: str, grid: tuple[int, int, int]
) -> list[int]:
    content = [{"type": "image"}, {"type": "text", "text": words}]
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    processor = vlm.processor
    text = processor.template.render(messages, add_generation_prompt=True)
    text = expand_slots(text, [grid], merge_size=processor.image.merge_size)
    return processor.tokenizer.encode(text)
