"""Qwen3-VL's files: `config.json` as a ModelConfig and back, and the tensors' names.

Source of the names: the index files of the released Qwen3-VL checkpoints.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from soler1_jax.checkpoints import hf_fields as fields
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import MediaTokens, ModelConfig, TextConfig, VisionConfig

NAME, MODEL_TYPE = "qwen3-vl", "qwen3_vl"
EMBEDDINGS = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
"""Also stored, as a copy of the embeddings, by some writers of tied models."""
CONV_HAS_TIME = True
"""Whether the stored patch embedding has an axis for time."""

# Frames given as pixels and not as patches are square, and so many tokens wide: 384
# pixels at the released patch size.
_FRAME_TOKENS = 12
# Classes that read the files.
_PLAIN, _WITH_HEADS = "Qwen3VLForConditionalGeneration", "RBM"
# What transformers assumes where the file is silent.
_VISION_THETA = 1e4
# Places of the layers in a head; between them are a GELU and a dropout.
_HEAD_PARTS = {"fc1": "0", "norm": "1", "fc2": "4"}
# What only the other family's decoder has.
_GEMMA = (
    "activation",
    "first_position",
    "norm_offset",
    "qk_norm",
    "sandwich_norms",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "sliding_layers",
    "scale_embeddings",
)


def from_hf(
    data: Mapping[str, Any],
    *,
    name: str = NAME,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> ModelConfig:
    """Reads the contents of `config.json`; see `hf_config.from_hf`."""
    vision, text = fields.obj(data, "vision_config"), fields.obj(data, "text_config")
    tie = data.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    config = ModelConfig(
        name=name,
        vision=_vision(vision),
        text=_text(text, bool(tie)),
        media=MediaTokens(
            image=fields.whole(data, "image_token_id"),
            video=fields.whole(data, "video_token_id"),
            start=fields.whole(data, "vision_start_token_id"),
            end=fields.whole(data, "vision_end_token_id"),
        ),
        dtype=dtype,
    )
    fields.require(
        "vision_config.out_hidden_size",
        vision.get("out_hidden_size"),
        config.text.hidden_size,
    )
    return config


def to_hf(config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Inverse of `from_hf`; see `hf_config.to_hf`."""
    check_parts(config)
    vision, text, media = config.vision, config.text, config.media
    data = copy.deepcopy(dict(base or {}))
    # transformers 5 writes the base of the rotary positions in here.
    stale = {**data.get("text_config", {})}
    stale.pop("rope_parameters", None)
    data |= {
        "architectures": [_WITH_HEADS if config.heads else _PLAIN],
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


def check_parts(config: ModelConfig) -> None:
    """Raises UserError unless a model has Qwen3-VL's parts and no others."""
    vision, text = config.vision, config.text
    defaults = {f.name: f.default for f in dataclasses.fields(TextConfig)}
    own = {
        "a conv stem": vision.stem != "linear",
        "mergers of another width": vision.merger_hidden is not None,
        "another merger": vision.merger != "mlp",
        "no rotary positions in the encoder": not vision.rotary,
        "heat maps": config.grounding is not None,
        "frame roles": bool(config.frame_roles),
        "a value head": bool(config.bin_count),
        "a state head": bool(config.state_size),
        "a bidirectional prefix": text.prefix_attention != "causal",
        "plain positions": text.mrope_section is None,
        "another decoder": any(getattr(text, f) != defaults[f] for f in _GEMMA),
        "no placeholders": config.media is None,
    }
    found = [part for part, there in own.items() if there]
    if found:
        raise UserError(
            "only Qwen3-VL and PaliGemma 2 models have a Hugging Face form; "
            f"{config.name!r} has {', '.join(found)}; store it with save_model"
        )


def module_names(path: Sequence[str]) -> tuple[str, ...]:
    """The checkpoint's names of a module, from its path without stacking."""
    match path:
        case ["lm_head"]:
            found = path
        case ["heads", "frame_pool_attn"]:
            found = path[1:]
        case ["heads", head, part]:
            found = [head, _HEAD_PARTS[part]]
        case ["embed_tokens"]:
            found = ["model", "language_model", *path]
        case ["visual", "blocks", "blocks", *rest]:
            found = ["model", "visual", "blocks", *rest]
        case ["language_model", "layers", "blocks", *rest]:
            found = ["model", "language_model", "layers", *rest]
        case ["visual", ("merger" | "deepstack_merger_list"), *_]:
            # The feed-forward layers of a merger have no module of their own there.
            found = ["model", *(key for key in path if key != "mlp")]
        case _:
            found = ["model", *path]
    return (".".join(found),)


def canonical(name: str) -> str:
    """The name of a tensor here, from that in a file.

    Writers that wrap the whole released model put one more `model.` before its names.
    """
    if name.startswith(("model.model.", f"model.{HEAD}")):
        return name.removeprefix("model.")
    return name


def _vision(data: Mapping[str, Any]) -> VisionConfig:
    fields.require(
        "vision_config.hidden_act", data.get("hidden_act"), "gelu_pytorch_tanh"
    )
    fields.require("vision_config.in_channels", data.get("in_channels", 3), 3)
    theta = fields.rope(data).get("rope_theta", _VISION_THETA)
    fields.require("vision_config.rope_parameters.rope_theta", theta, _VISION_THETA)
    places = fields.whole(data, "num_position_embeddings")
    if math.isqrt(places) ** 2 != places:
        raise UserError(
            f"num_position_embeddings must be a square number; got {places}; "
            f"restore {fields.CONFIG}"
        )
    levels = fields.numbers(
        "deepstack_visual_indexes", data.get("deepstack_visual_indexes")
    )
    if list(levels) != sorted(set(levels)):
        raise UserError(
            f"deepstack_visual_indexes must rise; got {levels}; restore {fields.CONFIG}"
        )
    patch, merge = (
        fields.whole(data, "patch_size"),
        fields.whole(data, "spatial_merge_size"),
    )
    return VisionConfig(
        image_size=patch * merge * _FRAME_TOKENS,
        patch_size=patch,
        temporal_patch_size=fields.whole(data, "temporal_patch_size"),
        hidden_size=fields.whole(data, "hidden_size"),
        intermediate_size=fields.whole(data, "intermediate_size"),
        depth=fields.whole(data, "depth"),
        num_heads=fields.whole(data, "num_heads"),
        position_grid=math.isqrt(places),
        spatial_merge_size=merge,
        deepstack_indexes=levels,
        scan_layers=True,
        remat=True,
    )


def _text(data: Mapping[str, Any], tie: bool) -> TextConfig:
    fields.require("text_config.hidden_act", data.get("hidden_act", "silu"), "silu")
    fields.require(
        "text_config.attention_bias", data.get("attention_bias", False), False
    )
    fields.require("text_config.attention_dropout", data.get("attention_dropout", 0), 0)
    kinds = set(data.get("layer_types") or ()) - {"full_attention"}
    fields.require("text_config.layer_types", sorted(kinds), [])
    rope = fields.rope(data)
    kind = rope.get("rope_type", rope.get("type", "default"))
    # "mrope" is how the files of older Qwen models say it.
    fields.require("rope_type", "default" if kind == "mrope" else kind, "default")
    fields.require("mrope_interleaved", rope.get("mrope_interleaved", True), True)
    theta = rope.get("rope_theta", data.get("rope_theta"))
    section = fields.numbers("mrope_section", rope.get("mrope_section"))
    if len(section) != 3:
        raise UserError(
            "mrope_section has a number each for time, height and width; got "
            f"{section}; restore {fields.CONFIG}"
        )
    heads = fields.whole(data, "num_attention_heads")
    return TextConfig(
        vocab_size=fields.whole(data, "vocab_size"),
        hidden_size=fields.whole(data, "hidden_size"),
        intermediate_size=fields.whole(data, "intermediate_size"),
        depth=fields.whole(data, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads
        if data.get("num_key_value_heads") is None
        else fields.whole(data, "num_key_value_heads"),
        head_dim=fields.whole(data, "head_dim"),
        rope_theta=fields.number("rope_theta", theta),
        mrope_section=section,
        norm_eps=fields.number("rms_norm_eps", data.get("rms_norm_eps", 1e-6)),
        tie_embeddings=tie,
        scan_layers=True,
        remat=True,
    )
