"""A supervised run from its parts: data, tokenizer, model, mesh, stages, evaluation.

The run's folder gets the checkpoints it continues from and, in `model/`, the best
model so far, whole at every moment.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError
from soler1_jax.common.run import Run
from soler1_jax.data.batches import BatchConfig
from soler1_jax.data.records import Episode
from soler1_jax.model.functional import Functional
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

    curriculum: curriculum.CurriculumConfig
    losses: sft.SftConfig = sft.SftConfig()
    optimizer: optimizer.OptimizerConfig = optimizer.OptimizerConfig()
    loop: loop.LoopConfig = loop.LoopConfig()
    seed: int = 0


def place_state(
    functions: Functional, tx: Any, params: Any, seed: int, mesh: Mesh
) -> tuple[state.TrainState, Any]:
    """The first state of a run on the mesh, and where its arrays lie.

    Args:
      functions: the model.
      tx: optimizer.
      params: weights to start from; None draws them from the seed.
      seed: of the run.
      mesh: see common/mesh.py.
    """

    def make(given: Any) -> state.TrainState:
        weights = functions.init(seed) if given is None else given
        return state.create(weights, tx, seed)

    shapes = jax.eval_shape(make, params)
    placed = state.state_shardings(shapes, mesh, functions.logical_axes())
    return jax.jit(make, out_shardings=placed)(params), placed


def supervise(
    settings: Settings,
    functions: Functional,
    tokenizer: sentencepiece.Tokenizer,
    episodes: Sequence[Episode],
    run: Run,
    store: loop.Store,
    mesh: Mesh,
    watch: loop.Watch | None = None,
    params: Any = None,
) -> tuple[state.TrainState, float]:
    """Trains; continues if the store holds a checkpoint.

    Args:
      settings: what decides the run.
      functions: the model.
      tokenizer: of its words.
      episodes: training data.
      run: where metrics go.
      store: where checkpoints go.
      mesh: devices.
      watch: see loop.train.
      params: weights to start from, or None.

    Returns:
      The last state and the seconds spent on it.

    Raises:
      UserError: a batch does not fit the mesh or the data, or was not finite.
    """
    plan = settings.curriculum
    check_data(episodes, functions)
    feed.check_divides(plan.episodes, mesh, "--episodes")
    feed.check_divides(plan.perception_episodes, mesh, "--perception-episodes")
    rate = curriculum.learning_rate(settings.optimizer, plan)
    tx = optimizer.make_optimizer(settings.optimizer, rate)
    first, shardings = place_state(functions, tx, params, settings.seed, mesh)

    def make_step(loss: sft.LossFn) -> Any:
        return sft.make_step(loss, functions.module, tx, shardings)

    stages = curriculum.make_stages(
        episodes,
        Words(tokenizer),
        sentencepiece.ANSWER,
        plan,
        settings.losses,
        make_step,
    )
    return loop.train(stages, first, run, store, mesh, settings.loop, watch)


def check_data(episodes: Sequence[Episode], functions: Functional) -> None:
    """Raises UserError unless the frames have the model's size."""
    size, wanted = episodes[0].external.shape[1], functions.config.vision.image_size
    if size != wanted:
        raise UserError(
            f"model {functions.config.name!r} looks at {wanted}x{wanted} pixels; the "
            f"data set has {size}x{size}; choose another --model or make other data"
        )


SaveModel = Callable[[Any, Mapping[str, Any]], None]


@dataclasses.dataclass
class Examiner:
    """Watches a run: examines the model and keeps the best one.

    Attributes:
      functions, tokenizer: the model.
      exams: name -> questions; the first decides which model is best.
      save: (params, metrics) -> None, writes the model folder.
      folder: of the run; remembers the best figure over continuations.
    """

    functions: Functional
    tokenizer: sentencepiece.Tokenizer
    exams: Mapping[str, validation.Exam]
    save: SaveModel
    folder: Path

    def __post_init__(self) -> None:
        """Compiles nothing yet."""
        grammar = progress_grammar(self.functions.config.text.vocab_size)
        self._answer = validation.make_answer(self.functions.module, grammar)

    def __call__(
        self, stage: str, step: int, current: state.TrainState
    ) -> dict[str, float]:
        """Examines; saves the model if no earlier one of the run was better."""
        if stage == "perception":
            return {}
        params = jax.device_get(current.params)
        found = {}
        for name, exam in self.exams.items():
            figures = validation.examine(
                self._answer, current.params, exam, self.tokenizer.decode
            )
            found |= {f"{name}_{k}": v for k, v in figures.items()}
        first = next(iter(self.exams), None)
        merit = found.get(f"{first}_pearson", 0.0)
        marker = self.folder / "best.txt"
        best = float(marker.read_text()) if marker.exists() else -np.inf
        if not best > merit:
            self.save(params, {"step": step, "stage": stage, **found})
            marker.write_text(f"{merit}\n")
        return found


def make_examiner(
    functions: Functional,
    tokenizer: sentencepiece.Tokenizer,
    exams: Mapping[str, Sequence[Episode]],
    config: BatchConfig,
    save: SaveModel,
    folder: Path,
) -> Examiner:
    """Encodes episodes once and returns the watcher of a run."""
    encoded = {
        name: validation.make_exam(episodes, Words(tokenizer), config, EXAM_BATCH)
        for name, episodes in exams.items()
        if len(episodes)
    }
    return Examiner(functions, tokenizer, encoded, save, folder)


def default_mesh(shape: str | None) -> Mesh:
    """A mesh from "data,fsdp,tensor", or all devices on `data`.

    Raises:
      UserError: three whole numbers are needed, with the right product.
    """
    if not shape:
        return meshes.make_mesh()
    try:
        sizes = [int(part) for part in shape.split(",")]
    except ValueError as error:
        raise UserError(
            f"a mesh is three whole numbers data,fsdp,tensor; got {shape!r}; "
            "give e.g. --mesh 4,1,1"
        ) from error
    return meshes.make_mesh(sizes)
