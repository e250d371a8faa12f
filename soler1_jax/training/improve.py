"""A run of reinforcement learning from verifiable rewards, from its parts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from soler1_jax.data.batches import BatchConfig, dataset
from soler1_jax.data.records import Episode
from soler1_jax.sampling.grammar import progress_grammar
from soler1_jax.tokenizers import sentencepiece
from soler1_jax.training import (
    curriculum,
    feed,
    loop,
    materials,
    optimizer,
    rlvr,
    sft,
    state,
    supervise,
)
from soler1_jax.training.loop import LoopConfig
from soler1_jax.training.optimizer import OptimizerConfig
from soler1_jax.training.rlvr import RlvrConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a run.

    Attributes:
      steps: sets of samples.
      batch: shapes and mixture of the batches; progress queries only.
      rlvr: sampling, objective, rewards.
      losses: weights of the supervised loss.
      optimizer: learning rate and the like.
      loop: intervals.
      seed: of batches and samples.
    """

    steps: int
    batch: BatchConfig
    rlvr: RlvrConfig = RlvrConfig()
    losses: sft.SftConfig = sft.SftConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()
    seed: int = 0


def fit(
    settings: Settings, learner: supervise.Learner, episodes: Sequence[Episode]
) -> Settings:
    """The same settings with lengths that hold the data set's texts."""
    words = supervise.Words(learner.tokenizer)
    found = curriculum.lengths(episodes, words, settings.batch.previous)
    found |= curriculum.patches(learner.functions.config)
    batch = dataclasses.replace(settings.batch, **found)
    return dataclasses.replace(settings, batch=batch)


def improve(
    settings: Settings,
    learner: supervise.Learner,
    episodes: Sequence[Episode],
    place: supervise.Place,
    watch: loop.Watch | None = None,
) -> tuple[state.TrainState, float]:
    """Trains; continues if the store holds a checkpoint.

    Returns:
      The last state and the seconds spent on it.

    Raises:
      UserError: a batch does not fit the mesh or the data, or was not finite.
    """
    functions, tokenizer = learner.functions, learner.tokenizer
    config = settings.rlvr
    materials.check_data(episodes, functions)
    feed.check_divides(settings.batch.episodes, place.mesh, "--episodes")
    updates = settings.steps * config.updates
    tx = optimizer.make_optimizer(
        settings.optimizer, optimizer.schedule(settings.optimizer, updates)
    )
    begin, shardings = supervise.beginning(learner, tx, settings.seed, place.mesh)
    budget = supervise.thought_budget(settings.batch)
    grammar = progress_grammar(functions.config.text.vocab_size, budget)
    sampling = rlvr.sampling_of(config.grpo, grammar)

    def supervised(model: Any, batch: Any, key: Any) -> Any:
        answer = sentencepiece.ANSWER
        return sft.query_loss(model, batch, key, settings.losses, answer)

    step = rlvr.make_step(
        rlvr.make_sampler(functions.module, sampling, config.grpo.group),
        rlvr.make_update(
            functions.module,
            tx,
            config,
            sampling,
            supervised,
            reference=learner.params if config.grpo.kl else None,
            shardings=shardings,
        ),
        tokenizer.decode,
        config,
    )
    data = dataset(episodes, supervise.Words(tokenizer), settings.batch, settings.seed)
    stage = loop.Stage("rlvr", settings.steps, step, curriculum.reader(data, "rlvr"))
    return loop.train(
        [stage], begin(), place.run, place.store, place.mesh, settings.loop, watch
    )
