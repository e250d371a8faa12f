"""Bicubic resizing: exactly Pillow's, exactly the same on the device."""

import jax
import numpy as np
import pytest
import qwen_corpus as corpus
from PIL import Image

from soler1_jax.common.errors import UserError
from soler1_jax.data.resize import fixed_point_weights, resize, resize_on_device

# Old and new sides; none shrinks the height much more than the width, where Pillow 13
# and later filter the height first.
SIZES = [
    ((29, 31), (256, 288)),
    ((77, 116), (64, 64)),
    ((97, 160), (128, 64)),
    ((1, 200), (32, 640)),
    ((48, 48), (48, 96)),
    ((48, 50), (96, 50)),
    ((96, 150), (95, 149)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_pillow_rounds_the_same(old, new):
    picture = corpus.picture(*old)
    wanted = Image.fromarray(picture).resize(new[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(picture, *new, "pillow"), np.asarray(wanted))


@pytest.mark.parametrize(("old", "new"), [*SIZES, ((300, 40), (32, 64))])
@pytest.mark.parametrize("arithmetic", ["pillow", "torchvision"])
def test_device_gives_the_same_bits(old, new, arithmetic):
    frames = np.stack([corpus.picture(*old, seed) for seed in range(2)])
    wanted = resize(frames, *new, arithmetic)
    found = jax.jit(resize_on_device, static_argnums=(1, 2, 3))(
        frames, *new, arithmetic
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted)


def test_arithmetics_are_two_but_close():
    picture = corpus.picture(29, 31)
    one, other = (resize(picture, 96, 96, a) for a in ("pillow", "torchvision"))
    difference = np.abs(one.astype(int) - other)
    assert 0 < difference.max() <= 2
    assert difference.mean() < 0.02


@pytest.mark.parametrize("arithmetic", ["pillow", "torchvision"])
@pytest.mark.parametrize(("old", "new"), [(7, 32), (600, 32), (31, 31), (1, 5)])
def test_filters_keep_brightness(arithmetic, old, new):
    matrix, shift = fixed_point_weights(old, new, arithmetic)
    total = np.asarray(matrix.sum(axis=1)) / 2**shift
    np.testing.assert_allclose(total, 1.0, atol=0.01)
    for value in (0, 1, 127, 255):
        grey = np.full((old, old, 3), value, np.uint8)
        assert np.abs(resize(grey, new, new, arithmetic).astype(int) - value).max() <= 1


def test_leading_axes_are_pictures():
    frames = np.stack([corpus.picture(20, 30, s) for s in range(6)])
    batch = resize(frames.reshape(2, 3, 20, 30, 3), 32, 40)
    assert batch.shape == (2, 3, 32, 40, 3)
    for frame, small in zip(frames, batch.reshape(6, 32, 40, 3), strict=True):
        np.testing.assert_array_equal(resize(frame, 32, 40), small)


def test_wrong_pictures_are_refused():
    picture = corpus.picture(8, 8)
    with pytest.raises(UserError, match="got float64"):
        resize(picture / 255, 16, 16)
    with pytest.raises(UserError, match="got 0 x 16"):
        resize(picture, 0, 16)
    with pytest.raises(UserError, match="did you mean 'pillow'"):
        resize(picture, 16, 16, "pilow")
    with pytest.raises(UserError, match="may shrink about 128 times"):
        resize_on_device(jax.numpy.zeros((1, 9000, 3), "uint8"), 1, 9, "pillow")
