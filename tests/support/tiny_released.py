"""A folder as a tiny Qwen3-VL would be released, with random weights."""

import json
import shutil
from pathlib import Path

import jax
from safetensors.numpy import save_file

from soler1_jax.checkpoints.hf_config import from_hf
from soler1_jax.checkpoints.hf_weights import to_stored
from soler1_jax.model.functional import functional
from soler1_jax.tokenizers.qwen import QwenTokenizer

_GOLDEN = Path(__file__).parents[1] / "golden/qwen_tiny"
_PICTURES = {
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 1024, "longest_edge": 8192},
}


def write(folder: Path, seed: int = 0) -> Path:
    """Writes tokenizer, processor, configuration and float32 weights."""
    shutil.copytree(_GOLDEN, folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).write_text(json.dumps(_PICTURES))
    tokens = QwenTokenizer(folder)
    ends = {"eos_token_id": [tokens.im_end_id]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "image_token_id": tokens.image_pad_id,
        "video_token_id": tokens.video_pad_id,
        "vision_start_token_id": tokens.vision_start_id,
        "vision_end_token_id": tokens.vision_end_id,
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": -(-tokens.vocab_size // 8) * 8,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
            "rope_theta": 5e6,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = from_hf(config)
    params = jax.device_get(functional(model, seed)[1])
    save_file(dict(to_stored(model, params)), folder / "model.safetensors")
    return folder
