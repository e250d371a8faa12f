"""The video-language model as a rewarder: looks, writes a thought, states progress.

Each query encodes one new picture: the first and the previous frame were encoded when
they were current, and their grounded features are kept in the episode's state
(arXiv 2603.28730, section 3: first, previous and current frame; 4: asked every k
control steps). The previous progress is not shown, so it cannot be copied.

Letters: B episodes, L prompt tokens, S generated tokens. Progress in percent.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import (
    UserError,
    nearest_hint,
    require_non_negative,
    require_positive,
)
from soler1_jax.common.rewarder import (
    MAX_PROGRESS,
    Rewarder,
    TaskText,
    Verdict,
    Views,
    bin_centers,
    entropy,
    two_hot,
)
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params
from soler1_jax.reward import prompt
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.sampling.loop import Generation, generate
from soler1_jax.sampling.methods import Method
from soler1_jax.tokenizers.sentencepiece import Tokenizer

Readout = Literal["greedy", "sampled", "expected", "glance"]
READOUTS: tuple[str, ...] = get_args(Readout)
_FROM_BINS = ("expected", "glance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLMSettings:
    """How a model is asked and read.

    Attributes:
      readout: "greedy" takes the likeliest tokens and the number they state, "sampled"
        draws them, "expected" is the mean of the value head's distribution after a
        greedy thought, "glance" the same before the thought, which is still written.
      temperature: of "sampled".
      caution: standard deviations of the value head's distribution that are taken off
        its mean. What a model has not seen it is unsure of; a policy that is paid for
        the mean alone goes there.
      thought_budget: longest thought in tokens; the default is what training allows.
      prompt_length: L.
      show_previous: tell the model its own previous answer, as it was told the true one
        when trained with `soler1 sft --previous`.
    """

    readout: Readout = "glance"
    temperature: float = 1.0
    caution: float = 0.0
    thought_budget: int = 33
    prompt_length: int = prompt.PROMPT_LENGTH
    show_previous: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        if self.readout not in READOUTS:
            raise UserError(
                f"a read-out is one of {', '.join(READOUTS)}; got {self.readout!r}"
                f"{nearest_hint(self.readout, READOUTS)}"
            )
        require_positive("temperature", self.temperature)
        require_non_negative("caution", self.caution)
        if self.caution and self.readout not in _FROM_BINS:
            raise UserError(
                "caution is taken off the mean of the value head; the read-out "
                f"{self.readout!r} is a number in words; use one of "
                f"{', '.join(_FROM_BINS)}, or --caution 0"
            )
        require_positive("thought_budget", self.thought_budget)
        require_positive("prompt_length", self.prompt_length)


class Watched(NamedTuple):
    """What the model remembers of B episodes."""

    first: Any  # Grounded of the first frame
    previous: Any  # Grounded of the frame of the last query
    text: TaskText
    # Its last answer, float32 [B] in percent; None if it is not told.
    previous_progress: jax.Array | None = None


def make_rewarder(
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    name: str,
    settings: VLMSettings | None = None,
) -> Rewarder:
    """Wraps a model in the contract of `common.rewarder`.

    Args:
      config: of the model; it must have been trained with `tokenizer`.
      params: its weights.
      tokenizer: turns sentences to ids and thoughts back to text.
      name: what the user called it.
      settings: how it is asked and read.

    Raises:
      UserError: the value head is asked for and the model has none.
    """
    settings = settings or VLMSettings()
    if settings.readout in _FROM_BINS and not config.bin_count:
        raise UserError(
            f"the read-out {settings.readout!r} needs a value head; model {name!r} "
            "has none; use 'greedy'"
        )
    model = Functional(config)
    grammar = progress_grammar(config.text.vocab_size, settings.thought_budget)
    sampled = settings.readout == "sampled"
    method = Method(temperature=settings.temperature if sampled else 0.0)
    told = prompt.before_tokens(tokenizer) if settings.show_previous else None

    def see(bound: Any, views: Views, text: TaskText) -> Any:
        features = bound.encode(views["external"], views.get("wrist"))
        return bound.ground(features, text.ids, text.mask)

    def start(params: Params, views: Views, task: TaskText, key: jax.Array) -> Watched:
        frame = see(model.module(params), views, task)
        begun = jnp.zeros(len(task.ids)) if settings.show_previous else None
        return Watched(frame, frame, task, begun)

    def score(
        params: Params, state: Watched, views: Views, key: jax.Array, truth: None
    ) -> tuple[Watched, Verdict]:
        bound = model.module(params)
        text = state.text
        if told is not None:
            text = prompt.with_previous(text, told, state.previous_progress)
        current = see(bound, views, text)
        frames = [state.first, state.previous, current]
        asked = bound.prefix(frames, text.ids, text.mask)
        said = generate(bound, asked, key, grammar=grammar, method=method)
        verdict = _verdict(said, settings)
        kept = verdict.progress if settings.show_previous else None
        state = state._replace(previous=current, previous_progress=kept)
        return state, verdict

    return Rewarder(
        params=params,
        name=name,
        views=("external", "wrist") if config.wrist_size else ("external",),
        dispensable=("wrist",) if config.wrist_size else (),
        image_size=config.vision.image_size,
        uses_truth=False,
        start=start,
        score=score,
        prepare=lambda sentences: prompt.prepare(
            tokenizer,
            sentences,
            settings.prompt_length,
            room=0 if told is None else len(told) + prompt.NUMBER_LENGTH,
        ),
        decode=tokenizer.decode,
    )


def _verdict(said: Generation, settings: VLMSettings) -> Verdict:
    """Reads a completion; an answer without a number counts as no progress."""
    stated = jnp.where(said.parsed, said.progress, 0.0)
    readout = settings.readout
    read = said.glance_logits if readout == "glance" else said.value_logits
    if read.shape[-1]:
        distribution = jax.nn.softmax(read, axis=-1)
    else:
        distribution = two_hot(stated)
    expected = distribution @ bin_centers()
    return Verdict(
        progress=_cautious(distribution, expected, settings.caution)
        if readout in _FROM_BINS
        else stated,
        expected=expected,
        distribution=distribution,
        entropy=entropy(distribution),
        tokens=said.tokens,
        parsed=said.parsed,
        logprob=jnp.sum(said.logprobs, axis=1),
    )


def _cautious(
    distribution: jax.Array, expected: jax.Array, caution: float
) -> jax.Array:
    """The mean less so many standard deviations, float32 [B] in percent.

    Args:
      distribution: float32 [B, 41].
      expected: float32 [B], its mean.
      caution: see VLMSettings.
    """
    if not caution:
        return expected
    squares = (bin_centers() - expected[:, None]) ** 2
    spread = jnp.sqrt(jnp.sum(distribution * squares, axis=-1))
    return jnp.clip(expected - caution * spread, -MAX_PROGRESS, MAX_PROGRESS)
