"""transformers' PaliGemma on the models and prompts of `paligemma_cases`."""

from typing import Any

import numpy as np
import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from soler1_jax.checkpoints.hf_paligemma import HEAD, canonical


def reference(data: dict[str, Any], weights: dict[str, np.ndarray]) -> Any:
    """Builds transformers' model of a config.json and gives it weights, float32."""
    model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**data)).eval()
    names = {canonical(name): name for name in model.state_dict()}
    state = {names[name]: torch.from_numpy(v) for name, v in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert {canonical(name) for name in missing} <= {HEAD} and not unexpected
    model.tie_weights()
    return model


def torch_inputs(
    inputs: dict[str, np.ndarray], dtype: Any, suffix: int = 0
) -> dict[str, torch.Tensor]:
    """Arrays as tensors, with the token types that the processor adds.

    The last `suffix` tokens of the (left-padded) prompts are no prefix.
    """
    tensors = {k: torch.from_numpy(v) for k, v in inputs.items()}
    if "pixel_values" in tensors:
        tensors["pixel_values"] = tensors["pixel_values"].to(dtype)
    kinds = np.zeros_like(inputs["input_ids"])
    if suffix:
        kinds[:, -suffix:] = 1
    return tensors | {"token_type_ids": torch.from_numpy(kinds)}


@torch.no_grad()
def reference_logits(
    model: Any, inputs: dict[str, np.ndarray], suffix: int = 0
) -> np.ndarray:
    """Logits float32 [B, T, V]."""
    out = model(**torch_inputs(inputs, model.dtype, suffix), use_cache=False)
    return out.logits.float().numpy()


@torch.no_grad()
def reference_tokens(
    model: Any, inputs: dict[str, np.ndarray], length: int
) -> np.ndarray:
    """Greedy tokens by its own cached generation, int [B, length]."""
    given = torch_inputs(inputs, model.dtype)
    # -1 never comes, so nothing stops early.
    out = model.generate(
        **given, do_sample=False, max_new_tokens=length, eos_token_id=-1, pad_token_id=0
    )
    return out[:, given["input_ids"].shape[1] :].numpy()


@torch.no_grad()
def reference_vision(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What enters the decoder, of all pictures: float32 [N, K, D]."""
    pixels = torch_inputs(inputs, model.dtype)["pixel_values"]
    return model.model.get_image_features(pixels).pooler_output.float().numpy()


def reference_shapes(data: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Released names and shapes of all tensors of a config.json, without their memory."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**data))
    return {canonical(n): tuple(p.shape) for n, p in model.named_parameters()}
