"""Random shifts: each image is a crop of its own border-padded self."""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.rl.augment import random_shift


def test_each_shift_is_a_crop_and_all_shifts_occur(key):
    pad, size = 2, 8
    image = jax.random.randint(key, (size, size, 3), 0, 255).astype(jnp.uint8)
    shifted = np.asarray(random_shift(key, jnp.repeat(image[None], 300, 0), pad))
    padded = np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    crops = {
        padded[y : y + size, x : x + size].tobytes(): (y, x)
        for y in range(2 * pad + 1)
        for x in range(2 * pad + 1)
    }
    assert shifted.dtype == np.uint8
    assert {crops[one.tobytes()] for one in shifted} == set(crops.values())


def test_no_padding_changes_nothing(key):
    images = jax.random.uniform(key, (4, 8, 8, 1))
    np.testing.assert_array_equal(random_shift(key, images, 0), images)
