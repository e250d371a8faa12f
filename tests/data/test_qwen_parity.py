"""Sizes, pixels and prompts against the processors of transformers, live.

The processors on torchvision are compared where it is installed and suits the torch;
those on Pillow wherever transformers is.
"""

import json

import jax
import numpy as np
import pytest
import qwen_corpus as corpus

from soler1_jax.data import patches, qwen_images
from soler1_jax.data.patches import PatchConfig, VideoConfig
from soler1_jax.data.qwen_processor import VideoFrames, load_processor

pytestmark = pytest.mark.parity

SIZE = {"shortest_edge": 65536, "longest_edge": 16777216}
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CUT = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
# Of numbers in [-1, 1]; a step of a uint8 colour is 8e-3.
WORST, MEAN = 1e-6, 1e-7


def _torchvision():
    """transformers, if it can use torchvision."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    return transformers


def _image_processor(arithmetic: str):
    if arithmetic == "torchvision":
        return _torchvision().Qwen2VLImageProcessor(size=SIZE, **COLOURS, **CUT)
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil

    return pil.Qwen2VLImageProcessorPil(size=SIZE, **COLOURS, **CUT)


def _close(found: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(found - wanted)
    assert found.shape == wanted.shape
    assert difference.max() < WORST
    assert difference.mean() < MEAN


@pytest.mark.parametrize("arithmetic", ["torchvision", "pillow"])
@pytest.mark.parametrize("name", corpus.IMAGES)
def test_images(name, arithmetic):
    processor = _image_processor(arithmetic)
    config = PatchConfig(arithmetic=arithmetic)
    picture = corpus.picture(*corpus.IMAGES[name], seed=5)
    wanted = processor(picture, return_tensors="np", input_data_format="channels_last")
    rows, grids = qwen_images.image_patches([picture], config)
    np.testing.assert_array_equal(grids, wanted["image_grid_thw"])
    _close(rows, wanted["pixel_values"])
    seen = jax.jit(lambda x: qwen_images.image_patches_on_device(x, config))(picture)
    _close(np.asarray(seen), wanted["pixel_values"])


def test_the_reference_refuses_what_we_refuse():
    processor = _image_processor("pillow")
    with pytest.raises(ValueError, match="aspect ratio"):
        processor(corpus.picture(1, 2000), input_data_format="channels_last")


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("name", corpus.VIDEOS)
def test_videos(name, capped):
    size = {"shortest_edge": 4096, "longest_edge": 60000}
    processor = _torchvision().Qwen3VLVideoProcessor(
        size=size, cap_pixels_per_frame=capped, do_sample_frames=False, **COLOURS, **CUT
    )
    config = VideoConfig(min_pixels=4096, max_pixels=60000, cap_frame_pixels=capped)
    clip = corpus.clip(*corpus.VIDEOS[name])
    wanted = processor([clip], return_tensors="np")
    rows, grids = qwen_images.video_patches([clip], config)
    np.testing.assert_array_equal(grids, wanted["video_grid_thw"])
    _close(rows, wanted["pixel_values_videos"])
    seen = jax.jit(lambda x: qwen_images.video_patches_on_device(x, config))(clip)
    _close(np.asarray(seen), wanted["pixel_values_videos"])
    with pytest.raises(ValueError, match="temporal_factor"):
        processor([clip[:1]], return_tensors="np")


def test_thousand_sizes():
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil

    rng = np.random.default_rng(7)
    for _ in range(1000):
        h, w = np.exp(rng.uniform(0, 8.5, 2)).astype(int).tolist()
        if max(h, w) <= 200 * min(h, w):
            asked = (h, w, 32, 65536, 16777216)
            assert patches.smart_resize(*asked) == pil.smart_resize(*asked), asked


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_whole_conversations(qwen_folder, layout):
    transformers = _torchvision()
    # As released checkpoints have it, and sampling left to the caller.
    path = qwen_folder / "video_preprocessor_config.json"
    config = json.loads(path.read_text())
    config |= {"do_sample_frames": False, "cap_pixels_per_frame": False}
    config |= {"video_processor_type": "Qwen3VLVideoProcessor"}
    path.write_text(json.dumps(config))
    from soler1_jax.tokenizers.chat import DEFAULT_TEMPLATE

    (qwen_folder / "chat_template.json").write_text(
        json.dumps({"chat_template": DEFAULT_TEMPLATE})
    )
    reference = transformers.Qwen3VLProcessor.from_pretrained(qwen_folder)
    folder = qwen_folder
    if layout == "newer":
        folder = qwen_folder.parent / "newer"
        reference.save_pretrained(folder)
        assert not (folder / "preprocessor_config.json").exists()
    processor = load_processor(folder)
    messages = corpus.CONVERSATIONS["mixed"]
    images = [corpus.picture(90, 120)]
    clips = [corpus.clip(5, 64, 96), corpus.clip(4, 50, 40)]
    indices, fps = [[0, 7, 15, 22, 30], [3, 4, 9, 11]], [29.97, 8.0]
    prompt = reference.apply_chat_template(messages, add_generation_prompt=True)
    wanted = reference(
        text=[prompt],
        images=images,
        videos=clips,
        video_metadata=[
            {"total_num_frames": 100, "fps": f, "frames_indices": list(i)}
            for f, i in zip(fps, indices, strict=True)
        ],
        return_tensors="np",
    )
    videos = [
        VideoFrames(frames=c, indices=i, source_fps=f)
        for c, i, f in zip(clips, indices, fps, strict=True)
    ]
    found = processor(messages, images, videos)
    assert found.ids.tolist() == wanted["input_ids"][0].tolist()
    np.testing.assert_array_equal(found.image_grids, wanted["image_grid_thw"])
    np.testing.assert_array_equal(found.video_grids, wanted["video_grid_thw"])
    _close(found.image_patches, wanted["pixel_values"])
    _close(found.video_patches, wanted["pixel_values_videos"])
