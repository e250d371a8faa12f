"""transformers' Qwen3-VL on the models and prompts of `qwen3_vl_cases`."""

from typing import Any

import numpy as np
import torch
from qwen3_vl_cases import IMAGE, VIDEO
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


def reference(data: dict[str, Any], weights: dict[str, np.ndarray]) -> Any:
    """Builds transformers' model of a config.json and gives it weights, float32."""
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**data)).eval()
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    return model


def torch_inputs(inputs: dict[str, np.ndarray], dtype: Any) -> dict[str, torch.Tensor]:
    """Arrays as tensors, with the token types that the processor adds."""
    ids = inputs["input_ids"]
    kinds = np.where(ids == IMAGE, 1, np.where(ids == VIDEO, 2, 0))
    tensors = {k: torch.from_numpy(v) for k, v in inputs.items()}
    for name in ("pixel_values", "pixel_values_videos"):
        if name in tensors:
            tensors[name] = tensors[name].to(dtype)
    return tensors | {"mm_token_type_ids": torch.from_numpy(kinds)}


@torch.no_grad()
def reference_logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Logits float32 [B, T, V]."""
    model.model.rope_deltas = None
    out = model(**torch_inputs(inputs, model.dtype), use_cache=False)
    return out.logits.float().numpy()


@torch.no_grad()
def reference_tokens(
    model: Any, inputs: dict[str, np.ndarray], length: int
) -> np.ndarray:
    """Greedy tokens by its own cached generation, int [B, length]."""
    model.model.rope_deltas = None
    given = torch_inputs(inputs, model.dtype)
    out = model.generate(
        **given, do_sample=False, max_new_tokens=length, eos_token_id=None
    )
    return out[:, given["input_ids"].shape[1] :].numpy()


def reference_positions(model: Any, inputs: dict[str, np.ndarray]) -> tuple:
    """Positions int [B, 3, T] and the next one int [B]."""
    given = torch_inputs(inputs, torch.float32)
    kept = (
        "input_ids",
        "attention_mask",
        "image_grid_thw",
        "video_grid_thw",
        "mm_token_type_ids",
    )
    positions, deltas = model.model.get_rope_index(
        **{k: v for k, v in given.items() if k in kept}
    )
    lengths = inputs["attention_mask"].sum(1)
    return positions.permute(1, 0, 2).numpy(), deltas[:, 0].numpy() + lengths


@torch.no_grad()
def reference_vision(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Merged tokens and DeepStack levels of all images: float32 [1 + levels, K, D]."""
    given = torch_inputs(inputs, model.dtype)
    out = model.model.visual(given["pixel_values"], grid_thw=given["image_grid_thw"])
    return torch.stack([out.pooler_output, *out.deepstack_features]).float().numpy()
