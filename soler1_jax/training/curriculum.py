"""The curriculum: see first, then compare frames, then state progress.

All stages share one train state. The learning rate rises and falls once while the
model learns to see, and once more over the two stages in which it is asked.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from soler1_jax.common.errors import UserError, nearest_hint, require_non_negative
from soler1_jax.data import batches
from soler1_jax.data.records import SOURCES, Episode
from soler1_jax.model.config import ModelConfig
from soler1_jax.training import feed, optimizer, sft
from soler1_jax.training.loop import Stage

STAGES = ("perception", "compare", "progress")

# Weights of the sources in the last stage. The paper balances 40 % foundational, 30 %
# embodied and 30 % progress reasoning (section 5); its foundational layer is spatial.
MIXTURES: dict[str, dict[str, float]] = {
    "paper": {"spatial": 0.4, "temporal": 0.3, "progress": 0.3},
    "nano": {"spatial": 0.05, "temporal": 0.05, "progress": 0.9},
    "progress": {"spatial": 0.0, "temporal": 0.0, "progress": 1.0},
}
COMPARE_MIXTURE = {"spatial": 0.4, "temporal": 0.4, "progress": 0.2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Lengths and batches of the stages.

    Attributes:
      perception_steps, compare_steps, progress_steps: how long each stage is.
      perception_episodes: episodes in a batch of the first stage.
      episodes: episodes in a batch of the others.
      queries: queries of each of them.
      mixture: weights of the sources in the last stage.
      previous: how often a progress prompt has the true previous progress. Models
        that always see it learn to copy it.
      prompt_length, completion_length, name_length: tokens; longer texts are errors.
      patch, wrist_patch: side in pixels of the model's patches, see BatchConfig.
      seed: of the order of the data.
    """

    perception_steps: int = 3000
    compare_steps: int = 400
    progress_steps: int = 4000
    perception_episodes: int = 8
    episodes: int = 4
    queries: int = 8
    mixture: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: MIXTURES["nano"]
    )
    previous: float = 0.0
    prompt_length: int = 24
    completion_length: int = 40
    name_length: int = 6
    patch: int = 8
    wrist_patch: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        for name in STAGES:
            require_non_negative(f"{name}_steps", getattr(self, f"{name}_steps"))
        require_non_negative("seed", self.seed)
        if not 0 <= self.previous <= 1:
            raise UserError(f"--previous is a share; got {self.previous}; give 0 to 1")
        if not self.steps:
            raise UserError("training needs steps; all stages have 0; give some")

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(getattr(self, f"{name}_steps") for name in STAGES)

    def batch(self, stage: str) -> batches.BatchConfig:
        """Shapes and mixture of a stage's batches."""
        seeing = stage == "perception"
        mixtures = {
            "perception": MIXTURES["progress"],
            "compare": COMPARE_MIXTURE,
            "progress": self.mixture,
        }
        return batches.BatchConfig(
            episodes=self.perception_episodes if seeing else self.episodes,
            queries=1 if seeing else self.queries,
            prompt_length=self.prompt_length,
            completion_length=self.completion_length,
            name_length=self.name_length,
            patch=self.patch,
            wrist_patch=self.wrist_patch,
            mix=mixtures[stage],
            previous=self.previous if stage == "progress" else 0.0,
        )


def parse_mixture(
    mixture: str,
    named: Mapping[str, Mapping[str, float]] = MIXTURES,
    sources: Collection[str] = SOURCES,
) -> Mapping[str, float]:
    """A mixture from its name, or from weights such as "progress=8,spatial=2".

    Args:
      mixture: what the user wrote.
      named: mixtures that have a name.
      sources: what can be weighed; anything if empty.

    Raises:
      UserError: neither of them.
    """
    if mixture in named:
        return named[mixture]
    weights = dict.fromkeys(sources, 0.0)
    for part in mixture.split(","):
        name, _, weight = part.partition("=")
        if name.strip() not in sources if sources else not weight:
            raise UserError(
                f"a mixture is a name or source=weight pairs; got {mixture!r}"
                + nearest_hint(name, [*named, *sources])
            )
        try:
            weights[name.strip()] = float(weight)
        except ValueError as error:
            raise UserError(
                f"a weight is a number; got {part!r}; write e.g. progress=8,spatial=2"
            ) from error
    return weights


def learning_rate(
    config: optimizer.OptimizerConfig, curriculum: CurriculumConfig
) -> Callable[[Any], Any]:
    """The schedule over all stages: one rise and fall to see, one to be asked."""
    phases = (
        curriculum.perception_steps,
        curriculum.compare_steps + curriculum.progress_steps,
    )
    return optimizer.phased_schedule(config, [p for p in phases if p])


def patches(config: ModelConfig) -> dict[str, int]:
    """Sides of the places on which a model locates things, for CurriculumConfig's fields of these names."""
    return {"patch": config.vision.map_patch, "wrist_patch": config.wrist_map_patch}


def lengths(
    episodes: Sequence[Episode], tokenizer: batches.Encoder, previous: float
) -> dict[str, int]:
    """Token lengths that hold every text of some episodes, as few as do.

    Args:
      episodes: all of them are read.
      tokenizer: of the model.
      previous: see CurriculumConfig.

    Returns:
      Values for CurriculumConfig's fields of these names.
    """
    longest = {"prompt_length": 1, "completion_length": 1, "name_length": 1}

    def hold(name: str, text: str, more: int) -> None:
        longest[name] = max(longest[name], len(tokenizer.encode(text)) + more)

    hint = len(tokenizer.encode(" before +000")) if previous else 0
    told: set[tuple[str, str]] = set()
    for episode in episodes:
        for query in episode.queries:
            if (query.prompt, query.completion) in told:
                continue
            told.add((query.prompt, query.completion))
            extra = hint if query.source == "progress" else 0
            hold("prompt_length", query.prompt, extra)
            hold("completion_length", query.completion, 1)
        for name in episode.names:
            hold("name_length", name, 0)
    return longest


def make_stages(
    episodes: Sequence[Episode],
    tokenizer: batches.Encoder,
    answer_id: int,
    curriculum: CurriculumConfig,
    losses: sft.SftConfig,
    make_step: Callable[[sft.LossFn], Any],
) -> list[Stage]:
    """The stages that have steps.

    Args:
      episodes: a training data set.
      tokenizer: of the model.
      answer_id: its id of `<answer>`.
      curriculum: lengths and batches.
      losses: weights.
      make_step: loss function -> jitted step; called once for each kind of step.
    """

    steps = {"perception": make_step(functools.partial(see, losses))}
    asking = make_step(functools.partial(be_asked, losses, answer_id))
    steps |= {"compare": asking, "progress": asking}
    stages = []
    for index, name in enumerate(STAGES):
        count = getattr(curriculum, f"{name}_steps")
        if count:
            data = batches.dataset(
                episodes, tokenizer, curriculum.batch(name), curriculum.seed + index
            )
            stages.append(Stage(name, count, steps[name], reader(data, name)))
    return stages


def see(losses: sft.SftConfig, model: Any, batch: Any, key: Any) -> Any:
    """`sft.perception_loss` as a LossFn, once `losses` is given."""
    return sft.perception_loss(model, batch, key, losses)


def be_asked(
    losses: sft.SftConfig, answer_id: int, model: Any, batch: Any, key: Any
) -> Any:
    """`sft.query_loss` as a LossFn, once `losses` and `answer_id` are given."""
    return sft.query_loss(model, batch, key, losses, answer_id)


# What a perception step does not look at need not travel to the devices.
_UNASKED = {"completion_ids", "completion_mask", "shown", "shown_mask"}
_UNASKED |= {"progress", "previous", "claims"}


def reader(data: Any, stage: str) -> Callable[[int], feed.Batch]:
    """Step -> batch, without the arrays that the stage does not look at."""
    dropped = _UNASKED if stage == "perception" else set()

    def read(step: int) -> feed.Batch:
        return {k: v for k, v in data[step].items() if k not in dropped}

    return read
