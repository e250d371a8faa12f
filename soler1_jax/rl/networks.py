"""Small networks for pixels and proprioception, as pure functions of plain trees.

The encoder cuts the image into 4x4 patches and merges 2x2 of them, each by one matrix
product: on a CPU the backward pass of 3x3 convolutions costs ten times as much.

Letters: N samples, H W C pixels (H, W multiples of 8), F features.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError
from soler1_jax.rl.types import Observation, Shapes

Params = dict[str, Any]
_FIRST_PATCH, _SECOND_PATCH = 4, 2


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Widths of the encoder.

    Attributes:
      first: channels of a 4x4 patch.
      second: channels of a 2x2 group of patches.
      features: F, width of what heads see beside proprioception.
    """

    first: int = 32
    second: int = 64
    features: int = 64


def dense_init(
    key: jax.Array, inputs: int, outputs: int, scale: float = math.sqrt(2)
) -> Params:
    """Draws an orthogonal weight float32 [inputs, outputs] and a zero bias."""
    weight = jax.nn.initializers.orthogonal(scale)(key, (inputs, outputs), jnp.float32)
    return {"weight": weight, "bias": jnp.zeros(outputs)}


def dense(params: Params, x: jax.Array) -> jax.Array:
    """Applies a linear layer to the last axis."""
    return x @ params["weight"] + params["bias"]


def mlp_init(
    key: jax.Array, sizes: tuple[int, ...], last_scale: float = 1.0
) -> list[Params]:
    """Draws the layers of a multilayer perceptron with the given sizes."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [math.sqrt(2)] * (len(sizes) - 2) + [last_scale]
    layers = zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    return [dense_init(*layer) for layer in layers]


def mlp(layers: list[Params], x: jax.Array, activation: Any) -> jax.Array:
    """Applies a multilayer perceptron; no activation after the last layer."""
    for layer in layers[:-1]:
        x = activation(dense(layer, x))
    return dense(layers[-1], x)


def encoder_init(key: jax.Array, shapes: Shapes, config: EncoderConfig) -> Params:
    """Draws an encoder.

    Raises:
      UserError: the image's sides are not multiples of 8.
    """
    height, width, channels = shapes.image
    stride = _FIRST_PATCH * _SECOND_PATCH
    if height % stride or width % stride:
        raise UserError(
            f"the policy's image needs sides that are multiples of {stride}; "
            f"got {height}x{width}; change the image size"
        )
    keys = jax.random.split(key, 3)
    flat = height * width // stride**2 * config.second
    return {
        "first": dense_init(keys[0], _FIRST_PATCH**2 * channels, config.first),
        "second": dense_init(keys[1], _SECOND_PATCH**2 * config.first, config.second),
        "out": dense_init(keys[2], flat, config.features, 1.0),
        "scale": jnp.ones(config.features),
        "shift": jnp.zeros(config.features),
    }


def encode(params: Params, seen: Observation) -> jax.Array:
    """Maps observations [N, ...] to float32 [N, F + P]."""
    x = seen.pixels.astype(jnp.float32) / 255.0 - 0.5
    x = jax.nn.relu(_patches(params["first"], x, _FIRST_PATCH))
    x = jax.nn.relu(_patches(params["second"], x, _SECOND_PATCH))
    x = dense(params["out"], x.reshape(x.shape[0], -1))
    return jnp.concatenate([jnp.tanh(layer_norm(params, x)), seen.proprio], axis=-1)


def layer_norm(params: Params, x: jax.Array) -> jax.Array:
    """Normalises the last axis, then scales and shifts it."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return centred / spread * params["scale"] + params["shift"]


def _patches(params: Params, x: jax.Array, size: int) -> jax.Array:
    count, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x.reshape(count, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    # One 2-D product: XLA's CPU backend is half as fast on the five leading axes.
    x = dense(params, x.reshape(count * rows * columns, size * size * channels))
    return x.reshape(count, rows, columns, -1)
