"""Sizes of the reference, and patches in merge-block order."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import qwen_corpus as corpus

from soler1_jax.common.errors import UserError
from soler1_jax.data import patches
from soler1_jax.data.patches import PatchConfig, VideoConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/qwen_images.json").read_text())


def test_image_sizes_are_those_of_the_reference():
    assert len(GOLDEN["image_sizes"]) > 100
    for *asked, height, width in GOLDEN["image_sizes"]:
        assert patches.smart_resize(*asked) == (height, width), asked


def test_video_sizes_are_those_of_the_reference():
    assert len(GOLDEN["video_sizes"]) > 80
    for frames, h, w, low, high, capped, *size in GOLDEN["video_sizes"]:
        config = VideoConfig(min_pixels=low, max_pixels=high, cap_frame_pixels=capped)
        asked = (frames, h, w, config)
        assert patches.video_size(*asked) == tuple(size), asked


@pytest.mark.parametrize(
    ("size", "first", "second"),
    [
        # arXiv 2603.28730's composites: stored sizes, and what the tower sees.
        ((773, 1162), (784, 1176), (768, 1184)),
        ((773, 773), (784, 784), (768, 768)),
        ((384, 1162), (392, 1176), (384, 1184)),
        ((384, 773), (392, 784), (384, 768)),
    ],
)
def test_two_stages_of_sole_r1(size, first, second):
    assert patches.smart_resize(*size, 28, 3136, 12845056) == first
    assert patches.image_size(*first, PatchConfig()) == second


def test_patches_of_a_token_stand_together():
    config = PatchConfig(patch_size=2, merge_size=2, temporal_patch_size=2)
    # Every number tells where it comes from.
    frames = np.arange(3 * 4 * 8 * 3).reshape(3, 4, 8, 3).astype(np.float32)
    rows = patches.cut(frames, config)
    assert rows.shape == (2 * 2 * 4, config.patch_dim)
    whole = np.concatenate([frames, frames[-1:]])
    number = 0
    for t in range(2):
        for block in range(2):
            for y in range(2):
                for x in range(2):
                    left = 4 * block + 2 * x
                    part = whole[2 * t : 2 * t + 2, 2 * y : 2 * y + 2, left : left + 2]
                    wanted = part.transpose(3, 0, 1, 2).ravel()
                    np.testing.assert_array_equal(rows[number], wanted)
                    number += 1
    np.testing.assert_array_equal(patches.cut(jnp.asarray(frames), config), rows)


def test_colours_are_put_about_zero():
    config = PatchConfig(mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 0.5))
    pixels = np.array([[0, 0, 0], [255, 255, 255], [51, 51, 51]], np.uint8)
    found = patches.normalise(pixels, config)
    assert found.dtype == np.float32
    wanted = [[-1, 0, -0.5], [1, 1, 1.5], [-0.6, 0.2, -0.1]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_resizing_sides_must_fit():
    config = PatchConfig(resize=False)
    assert patches.image_size(64, 96, config) == (64, 96)
    with pytest.raises(UserError, match="multiples of 32; got 60 x 96"):
        patches.image_size(60, 96, config)
    assert patches.video_size(1, 32, 32, VideoConfig(resize=False)) == (32, 32)


def test_impossible_pictures_are_refused():
    for call in (
        lambda: patches.image_size(1, 2000, PatchConfig()),
        lambda: patches.video_size(4, 1, 2000, VideoConfig()),
    ):
        with pytest.raises(UserError, match="a side may be 200 times the other") as e:
            call()
        assert "\n" not in str(e.value)
    assert corpus.IMAGES["one pixel high"] == (1, 200), "200 times is allowed"
    with pytest.raises(UserError, match="has 2 frames or more; got 1"):
        patches.video_size(1, 64, 64, VideoConfig())
    with pytest.raises(UserError, match="got 0 x 5"):
        patches.image_size(0, 5, PatchConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 0},
        {"min_pixels": 9, "max_pixels": 8},
        {"std": (0.5, 0.0, 0.5)},
        {"mean": (0.5,)},
        {"fps": 0},
        {"min_frames": 5, "max_frames": 4},
    ],
)
def test_wrong_configs_are_refused(wrong):
    with pytest.raises(UserError):
        VideoConfig(**wrong)
