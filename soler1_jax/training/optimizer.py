"""AdamW with warm-up, cosine decay and clipping by the global norm."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from soler1_jax.common.errors import UserError, require_non_negative, require_positive


@flax.struct.dataclass
class OptimizerConfig:
    """Settings of the optimizer.

    Attributes:
      learning_rate: peak value, reached after the warm-up.
      warmup_steps: linear rise from 0.
      final_fraction: share of the peak that is left at the last step.
      schedule: "cosine" or "constant" after the warm-up.
      weight_decay: decoupled, on arrays of two or more dimensions only.
      clip_norm: largest global norm of a gradient; 0 switches clipping off.
      b1: decay of the first moment.
      b2: decay of the second moment.
    """

    learning_rate: float = 1.2e-3
    warmup_steps: int = 50
    final_fraction: float = 0.02
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.98


def schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate as a function of the step, over `steps` steps in all.

    Raises:
      UserError: an unknown schedule or an impossible rate.
    """
    require_positive("the learning rate", config.learning_rate)
    require_non_negative("the warm-up", config.warmup_steps)
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.learning_rate, max(steps - warmup, 1), config.final_fraction
        )
    elif config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        raise UserError(
            "a learning-rate schedule is cosine or constant; "
            f"got {config.schedule!r}; choose one of them"
        )
    if not warmup:
        return after
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([rise, after], [warmup])


def phased_schedule(
    config: OptimizerConfig, phases: Sequence[int]
) -> Callable[[Any], jax.Array]:
    """`schedule` once for each phase, one after another.

    Args:
      config: of every phase.
      phases: their lengths in steps.
    """
    ends = list(itertools.accumulate(phases))
    return optax.join_schedules([schedule(config, p) for p in phases], ends[:-1])


def make_optimizer(
    config: OptimizerConfig, rate: Callable[[Any], jax.Array], logical: Any = None
) -> optax.GradientTransformation:
    """Returns AdamW with clipping and a learning rate of `schedule`'s kind.

    Args:
      config: settings.
      rate: learning rate as a function of the step.
      logical: a tree like the parameters whose leaves are tuples of logical axis names;
        needed for scanned layers, whose gains have a `layers` axis in front.
    """
    clip = (
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm > 0
        else optax.identity()
    )
    return optax.chain(
        clip,
        optax.adamw(
            rate,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=functools.partial(_decayed, logical=logical),
            mu_dtype=jnp.float32,
        ),
    )


def _decayed(params: Any, logical: Any) -> Any:
    """Gains and biases are not pulled towards zero."""
    if logical is None:
        return jax.tree.map(lambda p: p.ndim >= 2, params)
    leaves, tree = jax.tree.flatten(params)
    axes = [len(n) - n.count("layers") for n in tree.flatten_up_to(logical)]
    return tree.unflatten([count >= 2 for count in axes])


def in_float32(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The optimizer with moments and sums in float32 for parameters of any dtype.

    Of bfloat16 parameters, changes below a 512th of a number are lost when it is rounded
    again; float32 parameters lose none.
    """

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(grads: Any, moments: Any, params: Any = None) -> Any:
        return optimizer.update(wide(grads), moments, wide(params))

    return optax.GradientTransformation(lambda p: optimizer.init(wide(p)), update)
