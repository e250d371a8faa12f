"""Supervised fine-tuning of a released model on packed conversations, as a run."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import require_positive
from soler1_jax.data.order import Order, Plan
from soler1_jax.data.packing import PackedRows
from soler1_jax.data.row_room import RowShape
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.training import curriculum, feed, loop, packed
from soler1_jax.training import state as states
from soler1_jax.training.adapters import Trained, join, with_factors
from soler1_jax.training.examples import Examples
from soler1_jax.training.loop import LoopConfig
from soler1_jax.training.optimizer import (
    OptimizerConfig,
    in_float32,
    make_optimizer,
    schedule,
)
from soler1_jax.training.packed import PackedConfig
from soler1_jax.training.state import TrainState
from soler1_jax.training.supervise import Place

# Conversations of a file, which name no source of their own, count as a third kind.
MIXTURES = {
    "paper": {**curriculum.MIXTURES["paper"], "chat": 0.3},
    "progress": curriculum.MIXTURES["progress"],
}
# What the paper states of its schedule; the rest is usual for models of this size.
OPTIMIZER = OptimizerConfig(learning_rate=1e-5, warmup_steps=100, b2=0.95)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a run.

    Attributes:
      steps: batches.
      shape: of a batch.
      mixture: weights of the sources; those of which there are no examples do not count.
      packed: how a step is cut into pieces.
      optimizer: learning rate and the like.
      loop: intervals.
      exam_batches: held-out batches in an examination.
      seed: of the order.
    """

    steps: int
    shape: RowShape
    mixture: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: MIXTURES["paper"]
    )
    packed: PackedConfig = PackedConfig()
    optimizer: OptimizerConfig = OPTIMIZER
    loop: LoopConfig = LoopConfig()
    exam_batches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("--steps", self.steps)
        require_positive("--exam-batches", self.exam_batches)


class Learner:
    """A released model prepared for training on a mesh.

    Attributes:
      config: with factors, if there are some.
      functions: of that model.
      optimizer: of the parameters that are trained.
      state: to begin with; its taker clears it, since the first step uses it up.
      frozen: parameters that are not trained.
      shardings, frozen_shardings: where both lie.

    Args:
      vlm: the model; its parameters are used up.
      trained: which parameters are trained.
      settings: of the optimizer.
      steps: over which its learning rate falls.
      seed: of factors and of the state's key.
      mesh: of the devices.
    """

    def __init__(
        self,
        vlm: PretrainedVLM,
        trained: Trained,
        settings: OptimizerConfig,
        steps: int,
        seed: int,
        mesh: Mesh,
    ) -> None:
        self.config = trained.config(vlm.config)
        self.functions = Functional(self.config)
        logical = self.functions.logical_axes()
        axes, _ = trained.split(logical)
        rate = schedule(settings, steps)
        self.optimizer = in_float32(make_optimizer(settings, rate, axes))

        def begin(params: Params) -> tuple[TrainState, Params]:
            ours, rest = trained.split(with_factors(self.config, params, seed))
            wide = jax.tree.map(lambda x: x.astype(jnp.float32), ours)
            dtype = jnp.dtype(self.config.dtype)
            rest = jax.tree.map(lambda x: x.astype(dtype), rest)
            return states.create(wide, self.optimizer, seed), rest

        shapes = jax.eval_shape(begin, vlm.params)[0]
        self.shardings = states.state_shardings(shapes, mesh, logical)
        whole = meshes.shardings(logical, self.functions.shapes(), mesh)
        placed = trained.split(whole)[1]
        make = jax.jit(begin, out_shardings=(self.shardings, placed), donate_argnums=0)
        self.state, frozen = make(vlm.params)
        vlm.params = None
        self.frozen, self.frozen_shardings = frozen, placed


def reader(
    examples: Examples, plan: Plan, shape: RowShape, config: ModelConfig, mesh: Mesh
) -> Callable[[int], PackedRows]:
    """Step -> the rows of its batch that this process's devices hold."""
    mine = feed.local_rows(shape.rows, mesh)

    def read(step: int) -> PackedRows:
        rows = examples.rows(plan.rows(step)[mine.start : mine.stop], shape)
        # Half the bytes to move, where activations have half as many.
        values = rows.patches.values.astype(jnp.dtype(config.dtype))
        return rows._replace(patches=rows.patches._replace(values=values))

    return read


def tune(
    settings: Settings,
    learner: Learner,
    examples: Examples,
    place: Place,
    exam: Examples | None = None,
) -> tuple[TrainState, float]:
    """Trains; continues if the store holds a checkpoint.

    Args:
      settings: what decides the run.
      learner: the model.
      examples: to learn from.
      place: where the run happens.
      exam: held-out examples whose loss is logged.

    Returns:
      The last state and the seconds spent on it.

    Raises:
      UserError: a batch does not fit the mesh or the data, or was not finite.
    """
    shape, mesh, config = settings.shape, place.mesh, learner.config
    packed.check_rows(shape.rows, settings.packed, mesh)
    order = Order(examples.sources, settings.mixture, settings.seed)
    plan = Plan(examples.sizes, order, shape)
    step = packed.make_step(
        learner.functions,
        learner.optimizer,
        settings.packed,
        mesh,
        learner.shardings,
        learner.frozen_shardings,
    )
    stage = loop.Stage(
        "sft",
        settings.steps,
        lambda state, rows: step(state, rows, learner.frozen),
        reader(examples, plan, shape, config, mesh),
    )
    watch = None if exam is None else Exam(settings, learner, exam, mesh)
    state, learner.state = learner.state, None
    return loop.train(
        [stage], state, place.run, place.store, mesh, settings.loop, watch
    )


class Exam:
    """Watches a run: the loss on held-out examples, the same ones every time."""

    def __init__(
        self, settings: Settings, learner: Learner, examples: Examples, mesh: Mesh
    ) -> None:
        order = Order(examples.sources, settings.mixture, settings.seed)
        plan = Plan(examples.sizes, order, settings.shape)
        self._read = reader(examples, plan, settings.shape, learner.config, mesh)
        self._count, self._mesh, self._learner = settings.exam_batches, mesh, learner
        functions, config = learner.functions, settings.packed

        def losses(params: Params, rows: PackedRows) -> tuple[jax.Array, jax.Array]:
            model = functions.module(packed.lowered(params, functions.config.dtype))
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                mean = packed.loss(model, rows, config, mesh)
            return mean, jnp.sum(packed.targets(rows)[1])

        whole = meshes.replicated(mesh)
        self._losses = jax.jit(losses, out_shardings=(whole, whole))

    def __call__(self, stage: str, step: int, state: TrainState) -> dict[str, float]:
        """Mean cross-entropy in nats a token."""
        params = join(state.params, self._learner.frozen)
        found = []
        for batch in feed.batches(self._read, 0, self._count, self._mesh):
            found.append([float(x) for x in self._losses(params, batch)])
        means, counts = np.array(found).T
        return {"exam_loss": float(np.sum(means * counts) / np.sum(counts))}
