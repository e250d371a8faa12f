"""A checkpoint's small files: both layouts, contradictions, whole conversations."""

import json
from pathlib import Path

import numpy as np
import pytest
import qwen_corpus as corpus

from soler1_jax.common.errors import UserError
from soler1_jax.data.qwen_processor import (
    VideoFrames,
    load_processor,
    read_patch_configs,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/qwen_text.json").read_text())
# As in golden/make_qwen_text.py.
SIZES = [(40, 64), (70, 33)]
FRAMES = [(5, 64, 96), (4, 40, 40)]
INDICES = [[0, 7, 15, 22, 30], [3, 4, 9, 11]]
FPS = [29.97, 8.0]


def _change(path: Path, **values) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content.update(values)
    kept = {k: v for k, v in content.items() if v != "gone"}
    path.write_text(json.dumps(kept))


@pytest.mark.parametrize("name", GOLDEN["inputs"])
def test_conversations_are_those_of_the_reference(qwen_folder, name):
    golden = GOLDEN["inputs"][name]
    images = golden.get("image_grid_thw", [])
    videos = golden.get("video_grid_thw", [])
    found = load_processor(qwen_folder)(
        corpus.CONVERSATIONS[name],
        [corpus.picture(*size) for size in SIZES[: len(images)]],
        [
            VideoFrames(frames=corpus.clip(*shape), indices=indices, source_fps=fps)
            for shape, indices, fps in zip(
                FRAMES[: len(videos)], INDICES, FPS, strict=False
            )
        ],
    )
    assert found.ids.dtype == np.int32
    assert found.ids.tolist() == golden["ids"]
    assert found.image_grids.tolist() == images
    assert found.video_grids.tolist() == videos
    assert len(found.image_patches) == found.image_grids.prod(axis=1).sum()
    assert len(found.video_patches) == found.video_grids.prod(axis=1).sum()
    pads = (found.ids == load_processor(qwen_folder).tokenizer.image_pad_id).sum()
    assert pads == len(found.image_patches) // 4


def test_newer_layout_says_the_same(qwen_folder):
    older = read_patch_configs(qwen_folder)
    names = ("preprocessor_config.json", "video_preprocessor_config.json")
    image, video = (json.loads((qwen_folder / name).read_text()) for name in names)
    for name in names:
        (qwen_folder / name).unlink()
    _change(
        qwen_folder / "processor_config.json",
        image_processor=image,
        video_processor=video,
    )
    assert read_patch_configs(qwen_folder) == older


def test_values_come_from_the_files(qwen_folder):
    _change(
        qwen_folder / "preprocessor_config.json",
        min_pixels=2048,
        max_pixels=9000,
        image_std=[0.25, 0.5, 1],
        rescale_factor=0.5,
        do_resize=False,
    )
    _change(
        qwen_folder / "video_preprocessor_config.json",
        fps=4,
        max_frames=9,
        cap_pixels_per_frame=True,
    )
    image, video = read_patch_configs(qwen_folder, "pillow")
    assert (image.min_pixels, image.max_pixels) == (2048, 9000)
    assert image.std == (0.25, 0.5, 1)
    assert image.rescale == 0.5
    assert not image.resize
    assert image.arithmetic == video.arithmetic == "pillow"
    assert (video.fps, video.max_frames, video.cap_frame_pixels) == (4, 9, True)
    assert (video.min_pixels, video.min_frames) == (1024, 4)


def test_videos_fall_back_to_the_images_config(qwen_folder):
    (qwen_folder / "video_preprocessor_config.json").unlink()
    image, video = read_patch_configs(qwen_folder)
    assert video.max_pixels == image.max_pixels == 4096
    assert video.fps == 2.0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "has a preprocessor_config.json",
        ),
        (
            lambda f: _change(f / "preprocessor_config.json", patch_size="gone"),
            "lacks patch_size",
        ),
        (
            lambda f: _change(f / "preprocessor_config.json", size={"height": 3}),
            "lacks min_pixels, max_pixels",
        ),
        (
            lambda f: _change(f / "preprocessor_config.json", do_normalize=False),
            "has do_normalize False",
        ),
        (lambda f: _change(f / "preprocessor_config.json", resample=2), "resample 2"),
        (
            lambda f: _change(f / "preprocessor_config.json", patch_size="16"),
            "holds numbers",
        ),
        (lambda f: _change(f / "preprocessor_config.json", image_mean=0.5), "numbers"),
        (
            lambda f: _change(f / "preprocessor_config.json", merge_size=-1),
            "merge_size must be positive",
        ),
        (
            lambda f: _change(f / "video_preprocessor_config.json", patch_size=14),
            "patch_size is 16 in",
        ),
        (
            lambda f: _change(f / "config.json", vision_config={"patch_size": 14}),
            "patch_size is 14 in config.json and 16",
        ),
        (
            lambda f: _change(f / "config.json", image_token_id=151655),
            "image_token_id is 151655 in config.json and 712",
        ),
        (
            lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
            "template is Jinja",
        ),
    ],
)
def test_wrong_files_are_refused(qwen_folder, spoil, said):
    spoil(qwen_folder)
    with pytest.raises(UserError) as caught:
        load_processor(qwen_folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_requests_are_refused(qwen_folder, tmp_path):
    with pytest.raises(UserError, match="is not one"):
        load_processor(tmp_path / "none")
    processor = load_processor(qwen_folder)
    with pytest.raises(UserError, match="got 0 for 2"):
        processor(corpus.CONVERSATIONS["images"])
    with pytest.raises(UserError, match="every frame has a number"):
        VideoFrames(frames=corpus.clip(2, 8, 8), indices=[0], source_fps=2.0)
