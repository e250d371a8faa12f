"""Which read-out heads a checkpoint has; its `config.json` does not say.

Source of the names: Robometer's code release (arXiv 2603.02115) and its ports.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from soler1_jax.checkpoints.hf_config import from_hf
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import HeadsConfig, ModelConfig

_PROGRESS = "progress_head.4.weight"
_NEEDED = (_PROGRESS, "success_head.4.weight")


def find_heads(shapes: Mapping[str, tuple[int, ...]]) -> HeadsConfig | None:
    """Tells the heads from the names and shapes of a checkpoint's tensors.

    Returns:
      The heads, or None if there are none.

    Raises:
      UserError: one of progress and success is there without the other.
    """
    there = [name for name in _NEEDED if name in shapes]
    if not there:
        return None
    if len(there) < len(_NEEDED):
        raise UserError(
            f"a model with read-out heads has {' and '.join(_NEEDED)}; got {there[0]} "
            "alone; copy the whole folder again"
        )
    return HeadsConfig(
        progress_bins=shapes[_PROGRESS][0] if shapes[_PROGRESS] else 0,
        preference="preference_head.4.weight" in shapes,
        similarity="similarity_head.4.weight" in shapes,
        pooling="frame_pool_attn.weight" in shapes,
    )


def head_fields(config: ModelConfig, word_head: bool) -> dict[str, Any]:
    """What `converted.About` keeps of a model's heads; nothing if it has none."""
    if config.heads is None:
        return {}
    return {"heads": dataclasses.asdict(config.heads), "word_head": word_head}


def with_heads(
    data: Mapping[str, Any],
    heads: HeadsConfig | None,
    *,
    word_head: bool = True,
    name: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> ModelConfig:
    """`hf_config.from_hf` for a checkpoint that has these heads, or none.

    Args:
      data: contents of `config.json`.
      heads: of `find_heads`.
      word_head: whether the checkpoint may have a head over words of its own. Models that
        are read by heads alone are stored without one, whatever `config.json` says;
        they count as tied.
      name, dtype: as for `from_hf`.
    """
    config = from_hf(data, name=name, dtype=dtype)
    if heads is None:
        return config
    tied = config.text.tie_embeddings or not word_head
    text = dataclasses.replace(config.text, tie_embeddings=tied)
    return dataclasses.replace(config, text=text, heads=heads)
