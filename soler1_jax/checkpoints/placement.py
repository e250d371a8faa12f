"""Where the parameters of a checkpoint go: dtype and sharding of every leaf."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import shardings
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params

DTYPES = ("float32", "bfloat16")


def activation_dtype(wanted: str | None) -> str:
    """The dtype asked for, or what suits the device: float32 on a CPU, else bfloat16."""
    return wanted or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


def require_dtype(dtype: str) -> None:
    """Raises UserError unless parameters can have this dtype."""
    if dtype not in DTYPES:
        raise UserError(
            f"weights are loaded as {' or '.join(DTYPES)}; got {dtype!r}; choose one"
        )


def placed(config: ModelConfig, dtype: str, mesh: Mesh | None = None) -> Params:
    """Describes the parameters of a model on the devices.

    Args:
      config: of the model.
      dtype: of the parameters, one of `DTYPES`.
      mesh: to spread them over by their logical axes; None for the default device.

    Returns:
      A tree like the parameters of jax.ShapeDtypeStruct with shardings.
    """
    model = Functional(config)
    shapes = model.shapes()
    if mesh is None:
        one = SingleDeviceSharding(jnp.zeros(()).devices().pop())
        where = jax.tree.map(lambda _: one, shapes)
    else:
        where = shardings(model.logical_axes(), shapes, mesh)
    return jax.tree.map(
        lambda s, w: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype), sharding=w),
        shapes,
        where,
    )
