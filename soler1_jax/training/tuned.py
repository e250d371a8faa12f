"""What tuning a released model leaves: a run folder, checkpoints, and a model to be asked."""

from pathlib import Path
from typing import Protocol

from jax.sharding import Mesh

from soler1_jax.checkpoints.manager import CheckpointStore
from soler1_jax.checkpoints.save_tuned import save_tuned
from soler1_jax.common import distributed
from soler1_jax.common.run import Run
from soler1_jax.model.functional import parameter_count
from soler1_jax.training.adapters import join, merged
from soler1_jax.training.state import TrainState
from soler1_jax.training.supervise import Place
from soler1_jax.training.tuning import Learner


class Options(Protocol):
    """What both commands are told."""

    model: Path
    out: Path
    keep: int
    saved_dtype: str


def place(
    args: Options, command: str, may_change: tuple[str, ...], mesh: Mesh
) -> Place:
    """Opens the run folder; its first process writes it.

    Args:
      args: of the command, a dataclass.
      command: its name.
      may_change: options that a continued run may have different.
      mesh: of the devices.

    Raises:
      UserError: the folder holds another run, or is in use.
    """
    first = distributed.is_first()
    run = Run(args.out, command, args, may_change=may_change, writes=first)
    folder = args.out / "checkpoints"
    return Place(run, CheckpointStore(folder, keep=args.keep, background=True), mesh)


def finish(
    args: Options, learner: Learner, state: TrainState, seconds: float, place: Place
) -> None:
    """Writes OUT/model and result.json, and says so."""
    place.store.wait()
    steps = int(state.step)
    model = args.out / "model"
    if not distributed.agreed(model.exists()):
        # One that is there is whole, and of this run.
        params = merged(learner.config, join(state.params, learner.frozen))
        save_tuned(model, params, args.model, args.saved_dtype)
    place.run.finish(
        {
            "steps": steps,
            "wall_seconds": seconds,
            "trained_parameters": parameter_count(state.params),
            "devices": place.mesh.size,
        }
    )
    if distributed.is_first():
        print(f"{args.out}: {steps} steps in {seconds:.0f} s, see model/")
