"""The smallest model of Qwen3-VL's shape that TPU kernels take."""

import dataclasses

from soler1_jax.model import presets
from soler1_jax.model.config import MediaTokens, ModelConfig


def config() -> ModelConfig:
    """Two layers each, heads of 64 channels; traced as on a TPU."""
    large = presets.preset("qwen3-vl-8b", 512)
    return dataclasses.replace(
        large,
        name="tiny",
        vision=dataclasses.replace(
            large.vision,
            image_size=64,
            hidden_size=128,
            intermediate_size=256,
            depth=2,
            num_heads=2,
            position_grid=4,
            deepstack_indexes=(0,),
        ),
        text=dataclasses.replace(
            large.text,
            hidden_size=256,
            intermediate_size=512,
            depth=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=64,
            mrope_section=(12, 10, 10),
        ),
        media=MediaTokens(image=501, video=502, start=503, end=504),
        attention="pallas_tpu",
    )
