"""Qwen3-VL's `config.json` as a ModelConfig, and back.

The file says more than we model (dropout, initialisation, generation defaults) and could
ask for what we do not have (other activations, scaled positions). What would change the
outputs is checked; what would not is left alone.
"""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from soler1_jax.common.errors import UserError
from soler1_jax.model.config import MediaTokens, ModelConfig, TextConfig, VisionConfig

CONFIG = "config.json"
MODEL_TYPE = "qwen3_vl"

# Frames given as pixels and not as patches are square, and so many tokens wide: 384
# pixels at the released patch size.
_FRAME_TOKENS = 12
# What transformers assumes where the file is silent.
_VISION_THETA = 1e4


def read_hf_json(folder: str | Path, name: str = CONFIG) -> dict[str, Any]:
    """Reads a JSON file; UserError if it is missing or holds no object."""
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(
            f"a Hugging Face checkpoint is a folder with {CONFIG}; {path} is not there; "
            "check the path"
        )
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} must be JSON and is not; copy it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object; copy it again")
    return data


def from_hf(
    data: Mapping[str, Any],
    *,
    name: str = "qwen3-vl",
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> ModelConfig:
    """Turns the contents of `config.json` into a ModelConfig.

    Args:
      data: as transformers 4.57 or 5 writes it.
      name: what to call the model.
      dtype: of activations; what the file says is not used.

    Raises:
      UserError: a field is missing, or has a value that this model does not implement.
    """
    _require("model_type", data.get("model_type"), MODEL_TYPE)
    _require("quantization_config", data.get("quantization_config"), None)
    vision, text = _object(data, "vision_config"), _object(data, "text_config")
    tie = data.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    config = ModelConfig(
        name=name,
        vision=_vision(vision),
        text=_text(text, bool(tie)),
        media=MediaTokens(
            image=_whole(data, "image_token_id"),
            video=_whole(data, "video_token_id"),
            start=_whole(data, "vision_start_token_id"),
            end=_whole(data, "vision_end_token_id"),
        ),
        dtype=dtype,
    )
    _require(
        "vision_config.out_hidden_size",
        vision.get("out_hidden_size"),
        config.text.hidden_size,
    )
    return config


def to_hf(config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Inverse of `from_hf`, in the form of the released files.

    Args:
      config: of a Qwen3-VL model.
      base: a `config.json` whose other fields (end tokens, generation defaults, ...) are
        kept.

    Raises:
      UserError: the model has parts that Qwen3-VL has not.
    """
    require_qwen3_vl(config)
    vision, text, media = config.vision, config.text, config.media
    data = copy.deepcopy(dict(base or {}))
    # transformers 5 writes the base of the rotary positions in here.
    stale = {**data.get("text_config", {})}
    stale.pop("rope_parameters", None)
    data |= {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "tie_word_embeddings": text.tie_embeddings,
        "image_token_id": media.image,
        "video_token_id": media.video,
        "vision_start_token_id": media.start,
        "vision_end_token_id": media.end,
        "vision_config": data.get("vision_config", {})
        | {
            "model_type": MODEL_TYPE,
            "depth": vision.depth,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "out_hidden_size": text.hidden_size,
            "num_position_embeddings": vision.position_grid**2,
            "deepstack_visual_indexes": list(vision.deepstack_indexes),
        },
        "text_config": {"max_position_embeddings": 262144}
        | stale
        | {
            "model_type": "qwen3_vl_text",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rms_norm_eps": text.norm_eps,
            "tie_word_embeddings": text.tie_embeddings,
            "rope_theta": text.rope_theta,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_section),
            },
        },
    }
    return data


def require_qwen3_vl(config: ModelConfig) -> None:
    """Raises UserError unless a model has Qwen3-VL's parts and no others."""
    vision = config.vision
    own = {
        "a conv stem": vision.stem != "linear",
        "mergers of another width": vision.merger_hidden is not None,
        "heat maps": config.grounding is not None,
        "frame roles": bool(config.frame_roles),
        "a value head": bool(config.bin_count),
        "a state head": bool(config.state_size),
        "a bidirectional prefix": config.text.prefix_attention != "causal",
        "no placeholders": config.media is None,
    }
    found = [part for part, there in own.items() if there]
    if found:
        raise UserError(
            "only Qwen3-VL models have a Hugging Face form; "
            f"{config.name!r} has {', '.join(found)}; store it with save_model"
        )


def _vision(data: Mapping[str, Any]) -> VisionConfig:
    _require("vision_config.hidden_act", data.get("hidden_act"), "gelu_pytorch_tanh")
    _require("vision_config.in_channels", data.get("in_channels", 3), 3)
    theta = _rope(data).get("rope_theta", _VISION_THETA)
    _require("vision_config.rope_parameters.rope_theta", theta, _VISION_THETA)
    places = _whole(data, "num_position_embeddings")
    if math.isqrt(places) ** 2 != places:
        raise UserError(
            f"num_position_embeddings must be a square number; got {places}; "
            f"restore {CONFIG}"
        )
    levels = _numbers("deepstack_visual_indexes", data.get("deepstack_visual_indexes"))
    if list(levels) != sorted(set(levels)):
        raise UserError(
            f"deepstack_visual_indexes must rise; got {levels}; restore {CONFIG}"
        )
    patch, merge = _whole(data, "patch_size"), _whole(data, "spatial_merge_size")
    return VisionConfig(
        image_size=patch * merge * _FRAME_TOKENS,
        patch_size=patch,
        temporal_patch_size=_whole(data, "temporal_patch_size"),
        hidden_size=_whole(data, "hidden_size"),
        intermediate_size=_whole(data, "intermediate_size"),
        depth=_whole(data, "depth"),
        num_heads=_whole(data, "num_heads"),
        position_grid=math.isqrt(places),
        spatial_merge_size=merge,
        deepstack_indexes=levels,
        scan_layers=True,
    )


def _text(data: Mapping[str, Any], tie: bool) -> TextConfig:
    _require("text_config.hidden_act", data.get("hidden_act", "silu"), "silu")
    _require("text_config.attention_bias", data.get("attention_bias", False), False)
    _require("text_config.attention_dropout", data.get("attention_dropout", 0), 0)
    kinds = set(data.get("layer_types") or ()) - {"full_attention"}
    _require("text_config.layer_types", sorted(kinds), [])
    rope = _rope(data)
    kind = rope.get("rope_type", rope.get("type", "default"))
    # "mrope" is how the files of older Qwen models say it.
    _require("rope_type", "default" if kind == "mrope" else kind, "default")
    _require("mrope_interleaved", rope.get("mrope_interleaved", True), True)
    theta = rope.get("rope_theta", data.get("rope_theta"))
    section = _numbers("mrope_section", rope.get("mrope_section"))
    if len(section) != 3:
        raise UserError(
            "mrope_section has a number each for time, height and width; got "
            f"{section}; restore {CONFIG}"
        )
    heads = _whole(data, "num_attention_heads")
    return TextConfig(
        vocab_size=_whole(data, "vocab_size"),
        hidden_size=_whole(data, "hidden_size"),
        intermediate_size=_whole(data, "intermediate_size"),
        depth=_whole(data, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads
        if data.get("num_key_value_heads") is None
        else _whole(data, "num_key_value_heads"),
        head_dim=_whole(data, "head_dim"),
        rope_theta=_number("rope_theta", theta),
        mrope_section=section,
        norm_eps=_number("rms_norm_eps", data.get("rms_norm_eps", 1e-6)),
        tie_embeddings=tie,
        scan_layers=True,
        remat=True,
    )


def _require(field: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise UserError(
            f"this model implements {field} {wanted!r} only; {CONFIG} says {value!r}; "
            "use a Qwen3-VL checkpoint as it was released"
        )


def _object(data: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    if not isinstance(data.get(field), Mapping):
        raise UserError(f"{CONFIG} must hold an object {field}; restore the file")
    return data[field]


def _rope(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What transformers 5 calls rope_parameters and 4.57 rope_scaling."""
    for field in ("rope_parameters", "rope_scaling"):
        if data.get(field) is not None:
            return _object(data, field)
    return {}


def _numbers(field: str, value: Any) -> tuple[int, ...]:
    whole = isinstance(value, (list, tuple))
    if not whole or not all(isinstance(v, int) and v >= 0 for v in value):
        raise UserError(
            f"{field} must be a list of whole numbers; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return tuple(value)


def _whole(data: Mapping[str, Any], field: str) -> int:
    value = data.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{field} must be a positive whole number; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return value


def _number(field: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not value > 0:
        raise UserError(
            f"{field} must be a positive number; {CONFIG} says {value!r}; "
            "restore the file"
        )
    return float(value)
