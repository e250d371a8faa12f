"""A supervised run from its parts, and the examiner that watches it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from soler1_jax.common.run import Run
from soler1_jax.data.batches import BatchConfig
from soler1_jax.data.records import Episode
from soler1_jax.model.functional import Functional, Params
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.tokenizers import sentencepiece
from soler1_jax.training import (
    curriculum,
    feed,
    loop,
    optimizer,
    sft,
    state,
    validation,
)
from soler1_jax.training.curriculum import CurriculumConfig
from soler1_jax.training.keeper import Keeper
from soler1_jax.training.loop import LoopConfig
from soler1_jax.training.materials import check_data
from soler1_jax.training.optimizer import OptimizerConfig

EXAM_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Words:
    """A tokenizer as data/batches.py wants it."""

    tokenizer: sentencepiece.Tokenizer
    eos_id: int = sentencepiece.EOS

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special ids at its ends."""
        return self.tokenizer.encode(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a supervised run.

    Attributes:
      curriculum: stages and batches.
      losses: weights.
      optimizer: learning rate and the like.
      loop: intervals.
      seed: of the initial weights and of random choices in a step.
    """

    curriculum: CurriculumConfig
    losses: sft.SftConfig = sft.SftConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()
    seed: int = 0


class Learner(NamedTuple):
    """The model that learns."""

    functions: Functional
    tokenizer: sentencepiece.Tokenizer
    params: Params | None  # to start from; None draws them from the seed


class Place(NamedTuple):
    """Where a run happens and leaves its traces."""

    run: Run
    store: loop.Store
    mesh: Mesh


def beginning(
    learner: Learner, tx: Any, seed: int, mesh: Mesh
) -> tuple[Callable[[], state.TrainState], Any]:
    """How to make a run's first state on the mesh, and where its arrays will lie.

    Making it takes a compilation, so what can be refused is refused before.
    """
    functions = learner.functions

    def make(given: Params | None) -> state.TrainState:
        weights = functions.init(seed) if given is None else given
        return state.create(weights, tx, seed)

    shapes = jax.eval_shape(make, learner.params)
    placed = state.state_shardings(shapes, mesh, functions.logical_axes())
    return lambda: jax.jit(make, out_shardings=placed)(learner.params), placed


def supervise(
    settings: Settings,
    learner: Learner,
    episodes: Sequence[Episode],
    place: Place,
    watch: loop.Watch | None = None,
) -> tuple[state.TrainState, float]:
    """Trains; continues if the store holds a checkpoint.

    Returns:
      The last state and the seconds spent on it.

    Raises:
      UserError: a batch does not fit the mesh or the data, or was not finite.
    """
    plan, functions = settings.curriculum, learner.functions
    check_data(episodes, functions)
    feed.check_divides(plan.episodes, place.mesh, "--episodes")
    feed.check_divides(plan.perception_episodes, place.mesh, "--perception-episodes")
    rate = curriculum.learning_rate(settings.optimizer, plan)
    tx = optimizer.make_optimizer(settings.optimizer, rate)
    begin, shardings = beginning(learner, tx, settings.seed, place.mesh)

    def make_step(loss: sft.LossFn) -> Any:
        return sft.make_step(loss, functions.module, tx, shardings)

    stages = curriculum.make_stages(
        episodes,
        Words(learner.tokenizer),
        sentencepiece.ANSWER,
        plan,
        settings.losses,
        make_step,
    )
    return loop.train(
        stages, begin(), place.run, place.store, place.mesh, settings.loop, watch
    )


class Examiner:
    """Watches a run: examines the model on held-out episodes and keeps the best.

    Args:
      keeper: writes the model folder.
      episodes: to be examined on; none means that the newest model is kept.
      config: of the batches that are learned from. Longer texts of the examination
        lengthen its own batches alone, so that what is learned does not depend on it.
    """

    def __init__(
        self, keeper: Keeper, episodes: Sequence[Episode], config: BatchConfig
    ):
        functions, words = keeper.functions, Words(keeper.tokenizer)
        self._keeper = keeper
        self._exam = None
        if episodes:
            held = curriculum.lengths(episodes, words, 0.0)
            longer = {k: max(v, getattr(config, k)) for k, v in held.items()}
            config = dataclasses.replace(config, **longer)
            self._exam = validation.make_exam(episodes, words, config, EXAM_BATCH)
        budget = thought_budget(config)
        grammar = progress_grammar(functions.config.text.vocab_size, budget)
        self._answer = validation.make_answer(functions.module, grammar)

    def figures(self, params: Params) -> dict[str, float]:
        """Examines; see validation.examine. Empty without episodes."""
        if self._exam is None:
            return {}
        decode = self._keeper.tokenizer.decode
        return validation.examine(self._answer, params, self._exam, decode)

    def __call__(
        self, stage: str, step: int, current: state.TrainState
    ) -> dict[str, float]:
        """Examines; saves the model if no earlier one of the run was better."""
        if stage == "perception":
            return {}
        found = self.figures(current.params)
        facts = {"stage": stage, "step": step, "exam": found}
        # what rewarders read unless told otherwise
        merit = found.get("pearson_glance", 0.0)
        self._keeper.consider(current.params, merit, facts)
        return found


# `<think>`, `</think>`, `<answer>`, sign, three digits, `</answer>`, end.
FIXED_TOKENS = 9


def thought_budget(config: BatchConfig) -> int:
    """Tokens that a thought may have; one where the data have none, the least there is."""
    return max(config.completion_length - FIXED_TOKENS, 1)
