"""The encoder's patches against strided convolutions; bad image sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.rl import networks
from soler1_jax.rl.types import Observation, Shapes

CONFIG = networks.EncoderConfig()


def test_encoder_equals_convolutions_and_attention(key):
    params = networks.encoder_init(key, Shapes((16, 24, 6), 5, 2), CONFIG)
    pixels = jax.random.randint(key, (3, 16, 24, 6), 0, 255).astype(jnp.uint8)
    proprio = jax.random.normal(key, (3, 5))

    def convolve(layer, x, size):
        kernel = layer["weight"].reshape(size, size, x.shape[-1], -1)
        names = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, (size, size), "VALID", dimension_numbers=names
        )
        return jax.nn.relu(x + layer["bias"])

    parts = []
    for i, view in enumerate(params["views"]):
        x = convolve(view["first"], pixels[..., 3 * i : 3 * i + 3] / 255.0 - 0.5, 4)
        parts.append(convolve(view["second"], x, 2).reshape(3, -1))
        weight = np.exp(networks.dense(view["points"], x))
        weight /= weight.sum((1, 2), keepdims=True)
        rows, columns = np.mgrid[0:4, 0:6]
        place = np.stack([(rows - 1.5) / 2, (columns - 2.5) / 3], -1)
        x = np.concatenate([x, np.broadcast_to(place, (3, 4, 6, 2))], -1)
        found = [(weight[..., k : k + 1] * x).sum((1, 2)) for k in range(CONFIG.points)]
        parts.append(np.concatenate(found, -1))
    x = networks.dense(params["out"], np.concatenate(parts, -1))
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = jnp.concatenate([jnp.tanh(x), proprio], -1)
    found = networks.encode(params, Observation(pixels, proprio))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_odd_images_are_refused(key):
    with pytest.raises(UserError, match="multiples of 8; got 20x16"):
        networks.encoder_init(key, Shapes((20, 16, 3), 1, 1), CONFIG)
