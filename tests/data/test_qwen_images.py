"""What the vision tower is given: the reference's pixels, on the host and in jit."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import qwen_corpus as corpus
from PIL import Image

from soler1_jax.common.errors import UserError
from soler1_jax.data import qwen_images
from soler1_jax.data.patches import PatchConfig, VideoConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/qwen_images.json").read_text())


def _same(rows: np.ndarray, golden: dict) -> None:
    levels = np.rint((rows.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    places = np.linspace(0, levels.size - 1, 8).astype(int)
    assert levels.reshape(-1)[places].tolist() == golden["some"]
    assert hashlib.sha256(levels.tobytes()).hexdigest() == golden["levels"]
    assert rows.dtype == np.float32
    assert np.abs(rows - (levels / 127.5 - 1)).max() < 1e-6


@pytest.mark.parametrize("arithmetic", ["torchvision", "pillow"])
@pytest.mark.parametrize("name", corpus.IMAGES)
def test_images_are_those_of_the_reference(name, arithmetic):
    golden = GOLDEN["images"][arithmetic][name]
    config = PatchConfig(arithmetic=arithmetic)
    picture = corpus.picture(*corpus.IMAGES[name])
    rows, grids = qwen_images.image_patches([picture], config)
    assert grids.tolist() == [golden["grid"]]
    _same(rows, golden)
    assert list(qwen_images.image_grid(*picture.shape[:2], config)) == golden["grid"]
    seen = jax.jit(lambda x: qwen_images.image_patches_on_device(x, config))(picture)
    _same(np.asarray(seen), golden)


@pytest.mark.parametrize("name", corpus.VIDEOS)
def test_videos_are_those_of_the_reference(name):
    golden = GOLDEN["videos"][name]
    config = VideoConfig()
    clip = corpus.clip(*corpus.VIDEOS[name])
    rows, grids = qwen_images.video_patches([clip], config)
    assert grids.tolist() == [golden["grid"]]
    _same(rows, golden)
    assert list(qwen_images.video_grid(*clip.shape[:3], config)) == golden["grid"]
    seen = jax.jit(lambda x: qwen_images.video_patches_on_device(x, config))(clip)
    _same(np.asarray(seen), golden)


def test_pictures_of_a_batch_do_not_touch():
    config = VideoConfig(min_pixels=1024, max_pixels=8192)
    clips = np.stack([corpus.clip(3, 40, 50), corpus.clip(3, 40, 50)[::-1]])
    batch = qwen_images.video_patches_on_device(jax.numpy.asarray(clips), config)
    rows, grids = qwen_images.video_patches(list(clips), config)
    assert batch.shape == (2, int(grids[0].prod()), config.patch_dim)
    np.testing.assert_allclose(batch.reshape(rows.shape), rows, atol=1e-6)
    images = jax.numpy.asarray(clips[:, :2])
    batch = qwen_images.image_patches_on_device(images, config)
    rows, grids = qwen_images.image_patches(
        list(clips[:, :2].reshape(4, 40, 50, 3)), config
    )
    assert batch.shape[:2] == (2, 2)
    np.testing.assert_allclose(batch.reshape(rows.shape), rows, atol=1e-6)
    assert grids.shape == (4, 3)


def test_no_pictures_are_no_rows():
    rows, grids = qwen_images.image_patches([], PatchConfig())
    assert rows.shape == (0, 1536)
    assert grids.shape == (0, 3)


def test_frames_are_chosen_as_the_reference_does():
    assert len(GOLDEN["samples"]) >= 40
    for total, source, fps, indices in GOLDEN["samples"]:
        found = qwen_images.sample_frames(total, source, VideoConfig(), fps=fps)
        assert found.tolist() == indices, (total, source, fps)


def test_frames_by_number_and_by_the_configs_rate():
    config = VideoConfig(fps=1.0)
    assert qwen_images.sample_frames(60, 10.0, config).tolist() == [
        0,
        12,
        24,
        35,
        47,
        59,
    ]
    assert qwen_images.sample_frames(9, 10.0, config, count=3).tolist() == [0, 4, 8]
    with pytest.raises(UserError, match="give one"):
        qwen_images.sample_frames(9, 10.0, config, count=3, fps=1.0)
    with pytest.raises(UserError, match="source_fps must be positive"):
        qwen_images.sample_frames(9, 0.0, config)


def test_files_are_read_upright_and_in_colour(tmp_path):
    picture = corpus.picture(10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    read = qwen_images.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, np.rot90(picture, -1))
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert qwen_images.read_image(tmp_path / "grey.png").shape == (10, 20, 3)
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(UserError, match="must be readable"):
        qwen_images.read_image(tmp_path / "bad.png")


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(wrong):
    with pytest.raises(UserError, match="uint8 RGB"):
        qwen_images.image_patches([wrong], PatchConfig())
