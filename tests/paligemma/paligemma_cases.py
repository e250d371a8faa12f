"""Small PaliGemma 2 models and prompts on which we and transformers must agree.

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

from soler1_jax.checkpoints import hf_names, hf_paligemma
from soler1_jax.checkpoints.hf_config import from_hf
from soler1_jax.checkpoints.hf_weights import Loader
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Params

GOLDEN = Path(__file__).parent / "golden.npz"
LISTINGS = Path(__file__).parent / "released.json"
CHECKPOINT = Path(__file__).parent / "checkpoint"
VOCAB = 97
PAD, EOS, BOS, IMAGE = 0, 1, 2, 95
STEPS = 64
"""Tokens generated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What differs between the models."""

    heads: tuple[int, int, int]  # query heads, key-value heads, channels of a head
    vision: tuple[int, int, int]  # width, heads, depth
    grid: int = 10
    patch: int = 4
    width: int = 48
    depth: int = 4
    window: int = 24
    sliding: str = "sf"  # repeated over the layers
    caps: tuple[float | None, float | None] = (50.0, 30.0)
    scalar: int = 16
    theta: float = 1e4
    eps: float = 1e-6

    def hf(self) -> dict[str, Any]:
        """The contents of config.json."""
        query, shared, size = self.heads
        width, heads, depth = self.vision
        kinds = (self.sliding * self.depth)[: self.depth]
        names = {"s": "sliding_attention", "f": "full_attention"}
        return {
            "model_type": "paligemma",
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "image_token_index": IMAGE,
            "projection_dim": self.width,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "text_config": {
                "model_type": "gemma2",
                "vocab_size": VOCAB,
                "hidden_size": self.width,
                "intermediate_size": 2 * self.width,
                "num_hidden_layers": self.depth,
                "num_attention_heads": query,
                "num_key_value_heads": shared,
                "head_dim": size,
                "hidden_activation": "gelu_pytorch_tanh",
                "rms_norm_eps": self.eps,
                "rope_theta": self.theta,
                "query_pre_attn_scalar": self.scalar,
                "attn_logit_softcapping": self.caps[0],
                "final_logit_softcapping": self.caps[1],
                "sliding_window": self.window,
                "layer_types": [names[kind] for kind in kinds],
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
                "image_size": self.grid * self.patch,
                "patch_size": self.patch,
                "projection_dim": self.width,
                "vision_use_head": False,
            },
        }

    def config(self, dtype: str = "float32") -> ModelConfig:
        """Our configuration."""
        return from_hf(self.hf(), dtype=dtype)


CASES = {
    "grouped": Case(heads=(4, 2, 16), vision=(32, 2, 3)),
    "tight-caps": Case(
        heads=(6, 2, 8), vision=(32, 4, 2), caps=(3.0, 5.0), window=7, scalar=20
    ),
    "no-caps": Case(
        heads=(2, 2, 32), vision=(24, 2, 2), caps=(None, None), depth=3, eps=1e-3
    ),
    "all-sliding": Case(
        heads=(4, 1, 16), vision=(32, 2, 2), sliding="s", window=50, grid=8, width=32
    ),
    "no-sliding": Case(
        heads=(3, 1, 16), vision=(40, 4, 4), sliding="f", theta=1e6, patch=2, grid=12
    ),
    "deep": Case(
        heads=(4, 2, 12),
        vision=(48, 4, 3),
        depth=7,
        sliding="sff",
        window=33,
        caps=(None, 10.0),
    ),
    "released-head": Case(
        heads=(2, 1, 256), vision=(72, 1, 2), scalar=256, depth=2, grid=16, patch=2
    ),
}

SMALLEST = Case(
    heads=(2, 1, 8), vision=(16, 2, 1), grid=4, patch=2, width=16, depth=2, window=5
)
"""Stored as a checkpoint of several files, as transformers writes it."""

RELEASED = {
    "paligemma2-3b-224": (224, (2304, 9216, 26, 8, 4)),
    "paligemma2-3b-448": (448, (2304, 9216, 26, 8, 4)),
    "paligemma2-10b-448": (448, (3584, 14336, 42, 16, 8)),
}
"""Picture size; width, feed-forward, depth and heads of the decoder."""


def released(name: str) -> dict[str, Any]:
    """The config.json of a released checkpoint; what the smallest leaves out is out."""
    size, (width, feed, depth, heads, shared) = RELEASED[name]
    tokens = (size // 14) ** 2
    data = {
        "_vocab_size": 257152,
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "image_token_index": 257152,
        "model_type": "paligemma",
        "pad_token_id": 0,
        "projection_dim": width,
        "text_config": {
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "eos_token_id": [1, 107],
            "final_logit_softcapping": 30.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": width,
            "intermediate_size": feed,
            "model_type": "gemma2",
            "num_hidden_layers": depth,
            "num_image_tokens": tokens,
            "num_key_value_heads": shared,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "vocab_size": 257216,
        },
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "num_image_tokens": tokens,
            "patch_size": 14,
            "projection_dim": width,
            "vision_use_head": False,
        },
    }
    if heads != 8:
        data["text_config"]["num_attention_heads"] = heads
    if size != 224:
        data["vision_config"]["image_size"] = size
    return data


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
            value = _scale(tensor.name, value)
        elif tensor.name == hf_paligemma.EMBEDDINGS:
            value *= 2.5 * tensor.shape[1] ** -0.5
        elif "position" not in tensor.name:
            # Queries and keys are larger, so that attention is not flat.
            gain = 1.2 if "q_proj" in tensor.name or "k_proj" in tensor.name else 1.0
            value *= gain * np.prod(tensor.shape[1:]) ** -0.5
        weights[tensor.name] = value.astype(np.float32)
    return weights


def _scale(name: str, draw: np.ndarray) -> np.ndarray:
    """Of a norm. Gemma's are stored less one, SigLIP's are not."""
    if name.startswith("vision_tower"):
        return 1.0 + 0.3 * draw
    if name == "language_model.model.norm.weight":
        # Of both signs: else a tied model answers every word with itself.
        return draw - 1.0
    # What a layer adds must count beside the words, which are large.
    return (0.3 if "post" in name else 0.0) + 0.3 * draw


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
    pixels: list[np.ndarray]  # [3, H, W] each


def prompts(case: Case, seed: int = 0) -> list[Inputs]:
    """Prompts of 180 to 450 tokens: a picture and words, words only, two pictures."""
    draw = np.random.RandomState(seed)
    return [_prompt(case, draw, *counts) for counts in ((1, 190), (0, 330), (2, 60))]


def _prompt(case: Case, draw: np.random.RandomState, count: int, words: int) -> Inputs:
    side = case.grid * case.patch
    pixels = [
        draw.uniform(-1, 1, (3, side, side)).astype(np.float32) for _ in range(count)
    ]
    ids = [IMAGE] * (count * case.grid**2) + [BOS]
    return Inputs(ids + draw.randint(3, IMAGE, words).tolist(), pixels)


def batch(made: Sequence[Inputs], *, left: bool = False) -> dict[str, np.ndarray]:
    """Pads prompts and joins their pictures, as a processor does."""
    length = max(len(p.ids) for p in made)
    ids = np.full((len(made), length), PAD)
    mask = np.zeros(ids.shape, np.int64)
    for row, prompt in enumerate(made):
        count = len(prompt.ids)
        part = slice(length - count, length) if left else slice(count)
        ids[row, part], mask[row, part] = prompt.ids, 1
    joined = {"input_ids": ids, "attention_mask": mask}
    pixels = [picture for p in made for picture in p.pixels]
    if pixels:
        joined["pixel_values"] = np.stack(pixels)
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
