"""Small networks for pixels and proprioception, as pure functions of plain trees.

The encoder cuts each view into 4x4 patches and merges 2x2 of them, each by one matrix
product: on a CPU the backward pass of 3x3 convolutions costs ten times as much. Beside
that, a few maps of attention over the patches tell where things are: what is learned of
a thing in one place then holds in all places.

Letters: N samples, H W C pixels and channels (H, W multiples of 8), F features, K
points.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.common.errors import UserError
from soler1_jax.rl.types import Observation, Shapes

Params = dict[str, Any]
_COLORS = 3  # channels of a view
_FIRST_PATCH, _SECOND_PATCH = 4, 2
# Attention that starts even shows the same place for all pictures: it learns slower.
_POINT_SCALE = 8.0


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Widths of the encoder.

    Attributes:
      first: channels of a 4x4 patch.
      second: channels of a 2x2 group of patches.
      points: K, maps of attention over the patches of a view.
      features: F, width of what heads see beside proprioception.
    """

    first: int = 32
    second: int = 32
    points: int = 8
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
    views = channels // _COLORS
    *keys, out_key = jax.random.split(key, views + 1)
    flat = height * width // stride**2 * config.second
    pooled = config.points * (config.first + 2)
    return {
        "views": [_view_init(k, config) for k in keys],
        "out": dense_init(out_key, views * (flat + pooled), config.features, 1.0),
        "scale": jnp.ones(config.features),
        "shift": jnp.zeros(config.features),
    }


def _view_init(key: jax.Array, config: EncoderConfig) -> Params:
    keys = jax.random.split(key, 3)
    first, second = config.first, config.second
    return {
        "first": dense_init(keys[0], _FIRST_PATCH**2 * _COLORS, first),
        "second": dense_init(keys[1], _SECOND_PATCH**2 * first, second),
        "points": dense_init(keys[2], first, config.points, _POINT_SCALE),
    }


def encode(params: Params, seen: Observation) -> jax.Array:
    """Maps observations [N, ...] to float32 [N, F + P]."""
    pixels = seen.pixels.astype(jnp.float32) / 255.0 - 0.5
    parts = [
        _encode_view(view, pixels[..., _COLORS * i : _COLORS * (i + 1)])
        for i, view in enumerate(params["views"])
    ]
    x = dense(params["out"], jnp.concatenate(parts, axis=-1))
    return jnp.concatenate([jnp.tanh(layer_norm(params, x)), seen.proprio], axis=-1)


def _encode_view(params: Params, x: jax.Array) -> jax.Array:
    """Maps pictures [N, H, W, 3] to merged patches and attended ones, flat."""
    x = jax.nn.relu(_patches(params["first"], x, _FIRST_PATCH))
    merged = jax.nn.relu(_patches(params["second"], x, _SECOND_PATCH))
    count = x.shape[0]
    attended = _attend(params["points"], x)
    return jnp.concatenate(
        [merged.reshape(count, -1), attended.reshape(count, -1)], axis=-1
    )


def _attend(params: Params, x: jax.Array) -> jax.Array:
    """Finds K things: the mean patch under K maps of attention, and where it is.

    Args:
      params: the linear layer that gives the K maps.
      x: float32 [N, R, S, F], patches.

    Returns:
      float32 [N, K, F + 2]; the last two are row and column in [-1, 1].
    """
    count, rows, columns, width = x.shape
    axes = [(jnp.arange(n) + 0.5) / n * 2 - 1 for n in (rows, columns)]
    place = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    place = jnp.broadcast_to(place.reshape(-1, 2), (count, rows * columns, 2))
    flat = x.reshape(count * rows * columns, width)
    maps = dense(params, flat).reshape(count, rows * columns, -1)
    weight = jax.nn.softmax(maps, axis=1)
    value = jnp.concatenate([x.reshape(count, rows * columns, width), place], axis=-1)
    return jnp.einsum("nlk,nlf->nkf", weight, value)


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
