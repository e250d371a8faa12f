"""Small models and long prompts on which we and transformers must agree.

Everything is drawn from numpy's RandomState, whose streams never change, so weights and
prompts need not be stored. Norms, biases and tables are drawn too: at their usual initial
values a mistake in any of them would not show.
"""

import dataclasses
import hashlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soler1_jax.checkpoints import hf_names, hf_qwen3_vl
from soler1_jax.checkpoints.hf_config import from_hf
from soler1_jax.checkpoints.hf_weights import Loader
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params

GOLDEN = Path(__file__).parent / "golden.npz"
LISTINGS = Path(__file__).parent / "released.json"
CHECKPOINT = Path(__file__).parent / "checkpoint"
VOCAB = 97
IMAGE, VIDEO, START, END, PAD = range(91, 96)
PIECE = 60
"""Words between pictures."""
STEPS = 64
"""Tokens generated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What differs between the models."""

    heads: tuple[int, int, int]  # query heads, key-value heads, channels of a head
    sections: tuple[int, int, int]
    vision: tuple[int, int, int]  # width, heads, depth
    levels: tuple[int, ...]
    width: int = 48
    depth: int = 3
    grid: int = 6
    patch: int = 4
    merge: int = 2
    tie: bool = False
    theta: float = 5e6
    eps: float = 1e-6

    def hf(self) -> dict[str, Any]:
        """The contents of config.json."""
        query, shared, size = self.heads
        width, heads, depth = self.vision
        return {
            "model_type": "qwen3_vl",
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "tie_word_embeddings": self.tie,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "vocab_size": VOCAB,
                "hidden_size": self.width,
                "intermediate_size": 2 * self.width,
                "num_hidden_layers": self.depth,
                "num_attention_heads": query,
                "num_key_value_heads": shared,
                "head_dim": size,
                "hidden_act": "silu",
                "rms_norm_eps": self.eps,
                "rope_theta": self.theta,
                "tie_word_embeddings": self.tie,
                "rope_scaling": {
                    "rope_type": "default",
                    "mrope_interleaved": True,
                    "mrope_section": list(self.sections),
                },
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "depth": depth,
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_heads": heads,
                "hidden_act": "gelu_pytorch_tanh",
                "in_channels": 3,
                "patch_size": self.patch,
                "temporal_patch_size": 2,
                "spatial_merge_size": self.merge,
                "out_hidden_size": self.width,
                "num_position_embeddings": self.grid**2,
                "deepstack_visual_indexes": list(self.levels),
            },
        }

    def config(self, dtype: str = "float32") -> ModelConfig:
        """Our configuration."""
        return from_hf(self.hf(), dtype=dtype)


CASES = {
    "grouped": Case(
        heads=(4, 2, 16), sections=(4, 2, 2), vision=(32, 2, 3), levels=(0, 1)
    ),
    "tied": Case(
        heads=(6, 2, 8),
        sections=(2, 1, 1),
        vision=(32, 4, 4),
        levels=(0, 1, 2),
        tie=True,
        depth=4,
        theta=1e4,
    ),
    "no-deepstack": Case(
        heads=(2, 2, 32), sections=(6, 5, 5), vision=(24, 2, 2), levels=(), eps=1e-3
    ),
    "one-kv-head": Case(
        heads=(4, 1, 16), sections=(2, 3, 3), vision=(32, 2, 3), levels=(2,), width=32
    ),
    "deep": Case(
        heads=(3, 1, 16),
        sections=(3, 3, 2),
        vision=(48, 4, 5),
        levels=(0, 2, 3),
        depth=6,
        grid=9,
        tie=True,
    ),
    "released-head": Case(
        heads=(2, 1, 128), sections=(24, 20, 20), vision=(64, 1, 2), levels=(0,)
    ),
    "merge-3": Case(
        heads=(4, 2, 16),
        sections=(4, 2, 2),
        vision=(32, 2, 2),
        levels=(1,),
        patch=2,
        merge=3,
        theta=1e6,
    ),
}

SMALLEST = Case(
    heads=(2, 1, 8),
    sections=(2, 1, 1),
    vision=(16, 2, 2),
    levels=(0,),
    width=16,
    depth=2,
    grid=4,
)
"""Stored as a checkpoint of several files, as transformers writes it."""

RELEASED = {
    "qwen3-vl-2b": ((1024, 4096, 24, [5, 11, 17]), (2048, 6144, 28, 16), True),
    "qwen3-vl-4b": ((1024, 4096, 24, [5, 11, 17]), (2560, 9728, 36, 32), True),
    "qwen3-vl-8b": ((1152, 4304, 27, [8, 16, 24]), (4096, 12288, 36, 32), False),
}
"""Width, feed-forward, depth, DeepStack or heads; of encoder and decoder; tied."""


def released(name: str) -> dict[str, Any]:
    """The config.json of a released Qwen3-VL-Instruct checkpoint, as far as it matters."""
    vision, text, tie = RELEASED[name]
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": text[0],
            "initializer_range": 0.02,
            "intermediate_size": text[1],
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": text[3],
            "num_hidden_layers": text[2],
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "use_cache": True,
            "vocab_size": 151936,
        },
        "tie_word_embeddings": tie,
        "video_token_id": 151656,
        "vision_config": {
            "deepstack_visual_indexes": vision[3],
            "depth": vision[2],
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision[0],
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": vision[1],
            "model_type": "qwen3_vl",
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": text[0],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    }


def listing(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What a list of tensors comes to: how many, how many numbers, and a digest."""
    lines = "".join(f"{name} {list(shapes[name])}\n" for name in sorted(shapes))
    return {
        "tensors": len(shapes),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def stored_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws a checkpoint's tensors, float32, such that logits spread over a few nats."""
    weights = {}
    for tensor in hf_names.tensors(config):
        draw = np.random.RandomState(zlib.crc32(f"{seed} {tensor.name}".encode()))
        value = draw.standard_normal(tensor.shape)
        if tensor.name.endswith("bias"):
            value *= 0.3
        elif value.ndim == 1:
            value = (1.5 if "q_norm" in tensor.name else 1.0) + 0.3 * value
        elif tensor.name == hf_qwen3_vl.HEAD:
            value *= 2.5 * tensor.shape[1] ** -0.5
        elif tensor.name == hf_qwen3_vl.EMBEDDINGS and config.text.tie_embeddings:
            value *= 2.5 * tensor.shape[1] ** -0.5
        elif "embed" not in tensor.name or "proj" in tensor.name:
            value *= np.prod(tensor.shape[1:]) ** -0.5
        weights[tensor.name] = value.astype(np.float32)
    return weights


def our_params(config: ModelConfig, weights: dict[str, np.ndarray]) -> Params:
    """Puts stored tensors into our tree, in the configuration's dtype."""
    loader = Loader(config, config.dtype)
    for tensor in hf_names.tensors(config):
        loader.put(tensor, weights[tensor.name])
    return loader.params()


@dataclasses.dataclass
class Inputs:
    """One prompt."""

    ids: list[int]
    images: list[tuple[int, int, int]]  # grid_thw
    videos: list[tuple[int, int, int]]
    pixels: list[np.ndarray]  # of images
    clips: list[np.ndarray]  # of videos


def prompts(case: Case, seed: int = 0) -> list[Inputs]:
    """Prompts of 380 to 620 tokens: mixed, words only, a video, a flat picture."""
    draw = np.random.RandomState(seed)
    return [
        _prompt(case, draw, [(1, 6, 4), (1, 3, 7), (3, 4, 5)], [0, 0, 1], 230),
        _prompt(case, draw, [], [], 540),
        _prompt(case, draw, [(4, 3, 3)], [1], 300),
        _prompt(case, draw, [(1, 1, 12), (1, 12, 1), (1, 2, 2)], [0, 0, 0], 250),
    ]


def _prompt(
    case: Case,
    draw: np.random.RandomState,
    grids: Sequence[tuple[int, int, int]],
    kinds: Sequence[int],
    tail: int,
) -> Inputs:
    """`grids` are in merged tokens; `kinds` 1 for videos."""

    def words(count: int) -> list[int]:
        return draw.randint(0, IMAGE, count).tolist()

    made = Inputs(words(PIECE), [], [], [], [])
    for (times, down, across), is_video in zip(grids, kinds, strict=True):
        grid = (times, down * case.merge, across * case.merge)
        size = 3 * 2 * case.patch**2
        values = draw.uniform(-1, 1, (int(np.prod(grid)), size)).astype(np.float32)
        (made.videos if is_video else made.images).append(grid)
        (made.clips if is_video else made.pixels).append(values)
        for _ in range(times):
            # Each frame of a video has its own time written before it.
            made.ids += words(5) if is_video else []
            made.ids += [START, *[VIDEO if is_video else IMAGE] * (down * across), END]
        made.ids += words(PIECE)
    made.ids += words(tail)
    return made


def batch(made: Sequence[Inputs], *, left: bool = False) -> dict[str, np.ndarray]:
    """Pads prompts and joins their pictures, as a processor does."""
    length = max(len(p.ids) for p in made)
    ids = np.full((len(made), length), PAD)
    mask = np.zeros(ids.shape, np.int64)
    for row, prompt in enumerate(made):
        part = slice(length - len(prompt.ids), None) if left else len(prompt.ids)
        part = part if left else slice(part)
        ids[row, part], mask[row, part] = prompt.ids, 1
    joined = {"input_ids": ids, "attention_mask": mask}
    pixels = [v for p in made for v in p.pixels]
    clips = [v for p in made for v in p.clips]
    if pixels:
        joined["pixel_values"] = np.concatenate(pixels)
        joined["image_grid_thw"] = np.array([g for p in made for g in p.images])
    if clips:
        joined["pixel_values_videos"] = np.concatenate(clips)
        joined["video_grid_thw"] = np.array([g for p in made for g in p.videos])
    return joined


def sampled(mask: np.ndarray) -> np.ndarray:
    """Places whose logits are stored: every 41st token and the last four of a prompt."""
    chosen = np.zeros(mask.shape, bool)
    for row, there in enumerate(mask > 0):
        places = np.flatnonzero(there)
        chosen[row, places[::41]] = chosen[row, places[-4:]] = True
    return chosen


def kl(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """KL(reference || ours) in nats of logits [..., V], in float64: [...]."""
    p, q = (_log_softmax(np.asarray(x, np.float64)) for x in (reference, ours))
    return np.sum(np.exp(p) * (p - q), axis=-1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
