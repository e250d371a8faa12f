"""Writes qwen_images.json: what transformers makes of the Qwen corpus's pictures.

Run where transformers, torch and torchvision are installed:

    python tests/golden/make_qwen_images.py

Pixels are kept as a digest of whole colours, (value + 1) * 127.5, and eight of them.
The values change only if the corpus does, or if transformers changes what it does.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import qwen_corpus as corpus
import torch
import transformers
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil
from transformers.models.qwen3_vl import video_processing_qwen3_vl as video

SHARED = {
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
IMAGE = {"shortest_edge": 65536, "longest_edge": 16777216}
VIDEO = {"shortest_edge": 4096, "longest_edge": 25165824}


def main() -> None:
    processors = {
        "torchvision": transformers.Qwen2VLImageProcessor(size=IMAGE, **SHARED),
        "pillow": pil.Qwen2VLImageProcessorPil(size=IMAGE, **SHARED),
    }
    images = {
        arithmetic: {
            name: _pixels(
                processor(
                    corpus.picture(*shape),
                    return_tensors="np",
                    input_data_format="channels_last",
                ),
                "pixel_values",
                "image_grid_thw",
            )
            for name, shape in corpus.IMAGES.items()
        }
        for arithmetic, processor in processors.items()
    }
    cutter = video.Qwen3VLVideoProcessor(
        size=VIDEO, do_sample_frames=False, cap_pixels_per_frame=False, **SHARED
    )
    videos = {
        name: _pixels(
            cutter([corpus.clip(*shape)], return_tensors="np"),
            "pixel_values_videos",
            "video_grid_thw",
        )
        for name, shape in corpus.VIDEOS.items()
    }
    result = {
        "transformers": transformers.__version__,
        "images": images,
        "videos": videos,
        "image_sizes": _image_sizes(),
        "video_sizes": _video_sizes(),
        "samples": _samples(cutter),
    }
    text = json.dumps(result, separators=(",", ":")).replace("},", "},\n")
    Path(__file__).with_name("qwen_images.json").write_text(text + "\n")


def _pixels(found: dict, key: str, grid: str) -> dict:
    levels = (found[key].astype(np.float64) + 1) * 127.5
    whole = np.rint(levels).astype(np.uint8)
    assert np.abs(levels - whole).max() < 1e-4
    places = np.linspace(0, whole.size - 1, 8).astype(int)
    return {
        "grid": found[grid][0].tolist(),
        "levels": hashlib.sha256(whole.tobytes()).hexdigest(),
        "some": whole.reshape(-1)[places].tolist(),
    }


def _image_sizes() -> list:
    rng = np.random.default_rng(0)
    sizes = []
    for low, high in ((65536, 16777216), (3136, 12845056), (1024, 4096)):
        for factor in (32, 28):
            for h, w in np.exp(rng.uniform(1.5, 8.5, (25, 2))).astype(int).tolist():
                if max(h, w) <= 200 * min(h, w):
                    new = pil.smart_resize(h, w, factor, low, high)
                    sizes.append([h, w, factor, low, high, *new])
    return sizes


def _video_sizes() -> list:
    rng = np.random.default_rng(1)
    sizes = []
    for capped in (False, True):
        for low, high in ((4096, 25165824), (4096, 60000)):
            cutter = video.Qwen3VLVideoProcessor(
                size={"shortest_edge": low, "longest_edge": high},
                cap_pixels_per_frame=capped,
                **SHARED,
            )
            # Odd numbers of frames, where the bounds count one more or one less.
            asked = [[3, 32, 32], [5, 32, 32], [7, 64, 128], [5, 96, 128], [9, 64, 96]]
            sides = np.exp(rng.uniform(2.0, 7.6, (30, 2))).astype(int).tolist()
            asked += [[int(np.exp(rng.uniform(0.7, 6.6))), *side] for side in sides]
            for t, h, w in asked:
                if max(h, w) <= 100 * min(h, w):
                    size = _asked_size(cutter, t, h, w)
                    sizes.append([t, h, w, low, high, capped, *size])
    return sizes


def _asked_size(cutter: video.Qwen3VLVideoProcessor, t: int, h: int, w: int) -> list:
    """The size at which the processor would resize, without doing it."""
    size = []

    def note(self, image, **kwargs):
        size.extend([kwargs["size"].height, kwargs["size"].width])
        return image

    base, video.BaseVideoProcessor.resize = video.BaseVideoProcessor.resize, note
    try:
        cutter.resize(
            torch.zeros((), dtype=torch.uint8).expand(1, t, 3, h, w),
            size=cutter.size,
            resample=3,
            factor=32,
            temporal_factor=2,
            cap_pixels_per_frame=cutter.cap_pixels_per_frame,
        )
    finally:
        video.BaseVideoProcessor.resize = base
    return size


def _samples(cutter: video.Qwen3VLVideoProcessor) -> list:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        total = int(np.exp(rng.uniform(0, 6)))
        source = float(rng.choice([1.0, 2.0, 8.0, 23.976, 29.97, 30.0, 60.0]))
        fps = float(rng.choice([0.5, 1.0, 2.0, 4.0]))
        metadata = transformers.video_utils.VideoMetadata(
            total_num_frames=total, fps=source
        )
        indices = cutter.sample_frames(metadata, fps=fps)
        found.append([total, source, fps, indices.tolist()])
    return found


if __name__ == "__main__":
    main()
