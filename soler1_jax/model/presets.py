"""Named configurations: `nano` (shipped), `pico` and `mini` below and above it, `micro`
(tests), and the sizes of released checkpoints: Qwen3-VL and PaliGemma 2.
"""

import dataclasses

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.model.config import (
    GroundingConfig,
    MediaTokens,
    ModelConfig,
    TextConfig,
    VisionConfig,
)

QWEN_VOCAB_SIZE = 151936
QWEN_MEDIA = MediaTokens(image=151655, video=151656, start=151652, end=151653)
PALIGEMMA_VOCAB_SIZE, PALIGEMMA_IMAGE = 257216, 257152


def nano(vocab_size: int) -> ModelConfig:
    """About 1.7 M parameters: 64-pixel frames, 4 + 2 tokens a frame."""
    return ModelConfig(
        name="nano",
        vision=VisionConfig(
            image_size=64,
            patch_size=8,
            stem="conv",
            stem_size=48,
            stem_depth=1,
            cell_size=64,
            hidden_size=96,
            intermediate_size=288,
            depth=3,
            num_heads=4,
            position_grid=8,
            position_scale=0.3,
            spatial_merge_size=4,
            merger_hidden=128,
            deepstack_indexes=(1,),
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=320,
            depth=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            rope_theta=1e4,
            mrope_section=(6, 5, 5),
            prefix_attention="bidirectional",
        ),
        grounding=GroundingConfig(comparison=True),
        wrist_size=32,
        frame_roles=3,
        bin_count=41,
        state_size=7,
    )


def pico(vocab_size: int) -> ModelConfig:
    """About 0.5 M parameters: `nano` at half its width and two thirds of its depth."""
    large = nano(vocab_size)
    return dataclasses.replace(
        large,
        name="pico",
        vision=dataclasses.replace(
            large.vision,
            stem_size=24,
            cell_size=32,
            hidden_size=48,
            intermediate_size=144,
            depth=2,
            num_heads=2,
            merger_hidden=64,
        ),
        text=dataclasses.replace(
            large.text,
            hidden_size=64,
            intermediate_size=160,
            depth=2,
            num_heads=2,
            num_kv_heads=1,
        ),
    )


def mini(vocab_size: int) -> ModelConfig:
    """About 23 M parameters, for one GPU; looks at what `nano` looks at."""
    small = nano(vocab_size)
    return dataclasses.replace(
        small,
        name="mini",
        vision=dataclasses.replace(
            small.vision,
            stem_size=96,
            cell_size=128,
            hidden_size=320,
            intermediate_size=960,
            depth=6,
            num_heads=5,
            merger_hidden=512,
            deepstack_indexes=(1, 3),
        ),
        text=dataclasses.replace(
            small.text,
            hidden_size=320,
            intermediate_size=864,
            depth=6,
            num_heads=5,
            num_kv_heads=1,
            head_dim=64,
            mrope_section=(12, 10, 10),
        ),
    )


def micro(vocab_size: int) -> ModelConfig:
    """Everything `nano` has at the smallest size that still exercises it."""
    return ModelConfig(
        name="micro",
        vision=VisionConfig(
            image_size=16,
            patch_size=4,
            stem="conv",
            stem_size=8,
            stem_depth=1,
            cell_size=8,
            hidden_size=16,
            intermediate_size=32,
            depth=2,
            num_heads=2,
            position_grid=4,
            position_scale=0.3,
            spatial_merge_size=2,
            merger_hidden=16,
            deepstack_indexes=(0,),
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            depth=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            rope_theta=1e4,
            mrope_section=(4, 2, 2),
            prefix_attention="bidirectional",
        ),
        grounding=GroundingConfig(size=8, coordinate_frequencies=2, comparison=True),
        wrist_size=8,
        frame_roles=3,
        bin_count=41,
        state_size=7,
    )


def _qwen3_vl(
    name: str,
    vision: tuple[int, int, int, tuple[int, ...]],
    text: tuple[int, int, int, int],
    *,
    tie: bool,
) -> ModelConfig:
    """Builds a Qwen3-VL size from (width, feed-forward, depth, deepstack or heads)."""
    width, feed, depth, deepstack = vision
    text_width, text_feed, text_depth, heads = text
    return ModelConfig(
        name=name,
        vision=VisionConfig(
            image_size=384,
            patch_size=16,
            temporal_patch_size=2,
            hidden_size=width,
            intermediate_size=feed,
            depth=depth,
            num_heads=16,
            position_grid=48,
            deepstack_indexes=deepstack,
            scan_layers=True,
            remat=True,
        ),
        text=TextConfig(
            vocab_size=QWEN_VOCAB_SIZE,
            hidden_size=text_width,
            intermediate_size=text_feed,
            depth=text_depth,
            num_heads=heads,
            num_kv_heads=8,
            head_dim=128,
            rope_theta=5e6,
            mrope_section=(24, 20, 20),
            tie_embeddings=tie,
            scan_layers=True,
            remat=True,
        ),
        media=QWEN_MEDIA,
        dtype="bfloat16",
    )


QWEN3_VL = {
    "qwen3-vl-2b": _qwen3_vl(
        "qwen3-vl-2b", (1024, 4096, 24, (5, 11, 17)), (2048, 6144, 28, 16), tie=True
    ),
    "qwen3-vl-4b": _qwen3_vl(
        "qwen3-vl-4b", (1024, 4096, 24, (5, 11, 17)), (2560, 9728, 36, 32), tie=True
    ),
    "qwen3-vl-8b": _qwen3_vl(
        "qwen3-vl-8b", (1152, 4304, 27, (8, 16, 24)), (4096, 12288, 36, 32), tie=False
    ),
}


def _paligemma2(
    name: str, image_size: int, text: tuple[int, int, int, int, int]
) -> ModelConfig:
    """Builds a PaliGemma 2 size; `text` is width, feed-forward, depth and heads."""
    width, feed, depth, heads, kv_heads = text
    return ModelConfig(
        name=name,
        vision=VisionConfig(
            image_size=image_size,
            patch_size=14,
            hidden_size=1152,
            intermediate_size=4304,
            depth=27,
            num_heads=16,
            position_grid=image_size // 14,
            rotary=False,
            spatial_merge_size=1,
            merger="linear",
            scan_layers=True,
        ),
        text=TextConfig(
            vocab_size=PALIGEMMA_VOCAB_SIZE,
            hidden_size=width,
            intermediate_size=feed,
            depth=depth,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=256,
            activation="gelu",
            rope_theta=1e4,
            mrope_section=None,
            first_position=1,
            norm_offset=1.0,
            qk_norm=False,
            sandwich_norms=True,
            query_pre_attn_scalar=256.0,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            sliding_window=4096,
            sliding_layers=tuple(range(0, depth, 2)),
            scale_embeddings=True,
            tie_embeddings=True,
            prefix_attention="bidirectional",
            scan_layers=True,
            remat=True,
        ),
        media=MediaTokens(image=PALIGEMMA_IMAGE),
        dtype="bfloat16",
    )


_GEMMA2_2B, _GEMMA2_9B = (2304, 9216, 26, 8, 4), (3584, 14336, 42, 16, 8)
PALIGEMMA2 = {
    name: _paligemma2(name, size, text)
    for name, size, text in (
        ("paligemma2-3b-224", 224, _GEMMA2_2B),
        ("paligemma2-3b-448", 448, _GEMMA2_2B),
        ("paligemma2-10b-448", 448, _GEMMA2_9B),
    )
}


def preset(name: str, vocab_size: int | None = None) -> ModelConfig:
    """Returns the configuration of a name; `vocab_size` replaces the preset's own."""
    small = {"nano": nano, "pico": pico, "mini": mini, "micro": micro}
    if name in small:
        if vocab_size is None:
            raise UserError(
                f"preset {name!r} is sized by its tokenizer; got no vocab_size; give one"
            )
        return small[name](vocab_size)
    released = QWEN3_VL | PALIGEMMA2
    if name not in released:
        choices = (*small, *released)
        raise UserError(f"unknown preset {name!r}{nearest_hint(name, choices)}")
    config = released[name]
    if vocab_size is None:
        return config
    text = dataclasses.replace(config.text, vocab_size=vocab_size)
    return dataclasses.replace(config, text=text)
