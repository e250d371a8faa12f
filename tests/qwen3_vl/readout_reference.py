"""transformers' trunk with heads made of torch's layers."""

from typing import Any

import numpy as np
import torch
from qwen3_vl_reference import torch_inputs
from readout_cases import ANSWER, last_places, marked
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLModel

from soler1_jax.model.config import HeadsConfig


class WithHeads(nn.Module):
    """Named as the released checkpoints are."""

    def __init__(self, data: dict[str, Any], heads: HeadsConfig) -> None:
        super().__init__()
        self.model = Qwen3VLModel(Qwen3VLConfig(**data))
        width = data["text_config"]["hidden_size"]
        self.progress_head = _head(width, heads.progress_bins)
        self.success_head = _head(width, 1)
        if heads.preference:
            self.preference_head = _head(width, 1)
        if heads.similarity:
            self.similarity_head = _head(width, 1)
        if heads.pooling:
            self.frame_pool_attn = nn.Linear(width, 1, bias=False)

    @torch.no_grad()
    def hidden(self, given: dict[str, np.ndarray]) -> torch.Tensor:
        """Normed hidden states [B, T, D]."""
        self.model.rope_deltas = None
        inputs = torch_inputs(given, torch.float32)
        return self.model(**inputs, use_cache=False).last_hidden_state


def _head(width: int, outputs: int) -> nn.Sequential:
    inner = width // 2
    return nn.Sequential(
        nn.Linear(width, inner),
        nn.LayerNorm(inner),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(inner, outputs),
    )


def reference_model(
    data: dict[str, Any], heads: HeadsConfig, weights: dict[str, np.ndarray]
) -> WithHeads:
    """Builds it and gives it all of the weights."""
    model = WithHeads(data, heads).eval()
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    return model


@torch.no_grad()
def reference_readouts(
    model: WithHeads, given: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Logits of the heads at the markers, and log-probabilities of the answer."""
    hidden = model.hidden(given)
    at = hidden[marked(given)]
    found = {"progress": model.progress_head(at), "success": model.success_head(at)}
    if hasattr(model, "preference_head"):
        found["preference"] = model.preference_head(at)
    last = hidden[torch.arange(len(hidden)), torch.from_numpy(last_places(given))]
    logits = last @ model.model.language_model.embed_tokens.weight.T
    found["likelihood"] = torch.log_softmax(logits, dim=-1)[:, ANSWER]
    return {name: value.numpy() for name, value in found.items()}
