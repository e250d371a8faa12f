"""Tiny read-out models over the tokenizer of the tests, for us and for torch."""

import json
from pathlib import Path

from soler1_jax.model.config import (
    HeadsConfig,
    MediaTokens,
    ModelConfig,
    TextConfig,
    VisionConfig,
)
from soler1_jax.model.functional import functional
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.reward.robometer import MARKER, PREFERENCE
from soler1_jax.tokenizers.qwen import QwenTokenizer

# In the order in which the release adds them.
ADDED = ("<|split_token|>", "<|reward_token|>", PREFERENCE, "<|sim_token|>", MARKER)


def add_tokens(folder: Path) -> None:
    """Adds Robometer's tokens to a tokenizer.json, behind those that are there."""
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    first = QwenTokenizer(folder).vocab_size
    data["added_tokens"] += [
        {
            "id": first + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(ADDED)
    ]
    path.write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text("{}")


def tiny_vlm(folder: Path, heads: HeadsConfig | None = None) -> PretrainedVLM:
    """A random model; its weights are not in the folder."""
    tokens = QwenTokenizer(folder)
    config = ModelConfig(
        name="tiny",
        vision=VisionConfig(
            image_size=64,
            patch_size=16,
            temporal_patch_size=2,
            hidden_size=16,
            intermediate_size=24,
            depth=2,
            num_heads=2,
            position_grid=4,
            deepstack_indexes=(0,),
            scan_layers=True,
        ),
        text=TextConfig(
            vocab_size=tokens.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            depth=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            rope_theta=1e4,
            mrope_section=(2, 1, 1),
            tie_embeddings=True,
            scan_layers=True,
            remat=True,
        ),
        media=MediaTokens(
            image=tokens.image_pad_id,
            video=tokens.video_pad_id,
            start=tokens.vision_start_id,
            end=tokens.vision_end_id,
        ),
        heads=heads,
    )
    return PretrainedVLM(
        config, functional(config, seed=1)[1], (tokens.im_end_id,), folder
    )
