"""PaliGemma 2's files: `config.json` as a ModelConfig and back, and the tensors' names.

A SigLIP encoder, one matrix, and a Gemma 2 decoder. Released files leave out what
transformers assumes; the same is assumed here.

Sources: PaliGemma 2 (arXiv 2412.03555), section 3; the names are those of the released
checkpoints' index files.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from soler1_jax.checkpoints import hf_fields as fields
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import MediaTokens, ModelConfig, TextConfig, VisionConfig

NAME, MODEL_TYPE = "paligemma2", "paligemma"
_VISION, _TEXT = "vision_tower.vision_model", "language_model.model"
EMBEDDINGS = f"{_TEXT}.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
"""Also stored, as a copy of the embeddings, by some writers of tied models."""
CONV_HAS_TIME = False
"""Whether the stored patch embedding has an axis for time."""

_SLIDING, _FULL = "sliding_attention", "full_attention"
_NORM_EPS, _THETA = 1e-6, 1e4
_GELU = "gelu_pytorch_tanh"


def from_hf(
    data: Mapping[str, Any],
    *,
    name: str = NAME,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
) -> ModelConfig:
    """Reads the contents of `config.json`; see `hf_config.from_hf`."""
    vision, text = fields.obj(data, "vision_config"), fields.obj(data, "text_config")
    tie = data.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    # transformers 5 knows both names of the field.
    token = "image_token_id" if "image_token_id" in data else "image_token_index"
    config = ModelConfig(
        name=name,
        vision=_vision(vision),
        text=_text(text, bool(tie)),
        media=MediaTokens(image=fields.whole(data, token)),
        dtype=dtype,
    )
    width = data.get("projection_dim", vision.get("projection_dim"))
    fields.require("projection_dim", width, config.text.hidden_size)
    return config


def to_hf(config: ModelConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Inverse of `from_hf`; see `hf_config.to_hf`."""
    check_parts(config)
    vision, text = config.vision, config.text
    data = copy.deepcopy(dict(base or {}))
    # transformers 5 has other names for what is written below.
    data.pop("image_token_id", None)
    stale = {**data.get("text_config", {})}
    stale.pop("rope_parameters", None)
    tokens = vision.token_count
    data |= {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "tie_word_embeddings": text.tie_embeddings,
        "image_token_index": config.media.image,
        "projection_dim": text.hidden_size,
        "vision_config": data.get("vision_config", {})
        | {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.num_heads,
            "num_channels": 3,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_image_tokens": tokens,
            "projection_dim": text.hidden_size,
            "hidden_act": _GELU,
            "layer_norm_eps": _NORM_EPS,
            "vision_use_head": False,
        },
        "text_config": {"max_position_embeddings": 8192}
        | stale
        | {
            "model_type": "gemma2",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "hidden_activation": _GELU,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rms_norm_eps": text.norm_eps,
            "rope_theta": text.rope_theta,
            "query_pre_attn_scalar": _plain_number(text.query_pre_attn_scalar),
            "attn_logit_softcapping": text.attn_logit_softcapping,
            "final_logit_softcapping": text.final_logit_softcapping,
            "sliding_window": text.sliding_window,
            "layer_types": [
                _SLIDING if layer in text.sliding_layers else _FULL
                for layer in range(text.depth)
            ],
            "tie_word_embeddings": text.tie_embeddings,
            "num_image_tokens": tokens,
        },
    }
    return data


def check_parts(config: ModelConfig) -> None:
    """Raises UserError unless a model has PaliGemma 2's parts and no others."""
    vision, text, media = config.vision, config.text, config.media
    own = {
        "a conv stem": vision.stem != "linear",
        "patches of several frames": vision.temporal_patch_size != 1,
        "merged patches": vision.spatial_merge_size != 1,
        "an interpolated position table": vision.grid != vision.position_grid,
        "rotary positions in the encoder": vision.rotary,
        "deepstack levels": bool(vision.deepstack_indexes),
        "heat maps": config.grounding is not None,
        "frame roles": bool(config.frame_roles),
        "a value head": bool(config.bin_count),
        "a state head": bool(config.state_size),
        "read-out heads": config.heads is not None,
        "a causal prefix": text.prefix_attention != "bidirectional",
        "multimodal positions": text.mrope_section is not None,
        "another decoder": text.activation != "gelu"
        or text.first_position != 1
        or text.norm_offset != 1
        or text.qk_norm
        or not text.sandwich_norms
        or not text.scale_embeddings
        or text.query_pre_attn_scalar is None,
        "no placeholders": media is None,
    }
    found = [part for part, there in own.items() if there]
    if found:
        raise UserError(
            "a model with a linear merger has a Hugging Face form if it is a PaliGemma 2; "
            f"{config.name!r} has {', '.join(found)}; store it with save_model"
        )


def module_names(path: Sequence[str]) -> tuple[str, ...]:
    """The checkpoint's names of a module, from its path without stacking."""
    match path:
        case ["visual", "patch_embed", "proj"]:
            return (f"{_VISION}.embeddings.patch_embedding",)
        case ["visual", "pos_embed"]:
            return (f"{_VISION}.embeddings.position_embedding",)
        case ["visual", "merger", "norm"]:
            return (f"{_VISION}.post_layernorm",)
        case ["visual", "merger", "linear"]:
            return ("multi_modal_projector.linear",)
        case ["visual", "blocks", "blocks", layer, *rest]:
            block = f"{_VISION}.encoder.layers.{layer}"
            return tuple(f"{block}.{name}" for name in _BLOCK[".".join(rest)])
        case ["language_model", "layers", "blocks", *rest]:
            return (".".join([_TEXT, "layers", *rest]),)
        case ["language_model", "norm"]:
            return (f"{_TEXT}.norm",)
        case ["embed_tokens"]:
            return (EMBEDDINGS.removesuffix(".weight"),)
    return (HEAD.removesuffix(".weight"),)


_BLOCK = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.linear_fc1": ("mlp.fc1",),
    "mlp.linear_fc2": ("mlp.fc2",),
}


def canonical(name: str) -> str:
    """The released name of a tensor, from any that a version of transformers writes.

    Since 4.52 its modules are called otherwise than in the released files; some versions
    write their own names, others the released ones or a mixture.
    """
    name = name.removeprefix("model.")
    if name == "lm_head.weight":
        return HEAD
    first, _, rest = name.partition(".")
    if first == "vision_tower":
        return f"{_VISION}.{rest.removeprefix('vision_model.')}"
    if first == "language_model" and name != HEAD:
        return f"{_TEXT}.{rest.removeprefix('model.')}"
    return name


def _vision(data: Mapping[str, Any]) -> VisionConfig:
    for field, found, wanted in (
        ("model_type", data.get("model_type"), "siglip_vision_model"),
        ("hidden_act", data.get("hidden_act", _GELU), _GELU),
        ("num_channels", data.get("num_channels", 3), 3),
        ("layer_norm_eps", data.get("layer_norm_eps", _NORM_EPS), _NORM_EPS),
        ("attention_dropout", data.get("attention_dropout", 0), 0),
        ("vision_use_head", data.get("vision_use_head", False), False),
    ):
        fields.require(f"vision_config.{field}", found, wanted)
    size, patch = (
        fields.whole(data, "image_size", 224),
        fields.whole(data, "patch_size"),
    )
    return VisionConfig(
        image_size=size,
        patch_size=patch,
        hidden_size=fields.whole(data, "hidden_size"),
        intermediate_size=fields.whole(data, "intermediate_size"),
        depth=fields.whole(data, "num_hidden_layers"),
        num_heads=fields.whole(data, "num_attention_heads"),
        position_grid=size // patch,
        rotary=False,
        spatial_merge_size=1,
        merger="linear",
        scan_layers=True,
    )


def _text(data: Mapping[str, Any], tie: bool) -> TextConfig:
    rope = fields.rope(data)
    for field, found, wanted in (
        ("model_type", data.get("model_type"), "gemma2"),
        ("hidden_activation", data.get("hidden_activation", _GELU), _GELU),
        ("attention_bias", data.get("attention_bias", False), False),
        ("attention_dropout", data.get("attention_dropout", 0), 0),
        (
            "use_bidirectional_attention",
            data.get("use_bidirectional_attention") in (None, True),
            True,
        ),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
    ):
        fields.require(f"text_config.{field}", found, wanted)
    depth = fields.whole(data, "num_hidden_layers")
    kinds = data.get("layer_types") or [_SLIDING, _FULL] * depth
    for kind in kinds:
        fields.require("text_config.layer_types", kind, _SLIDING, _FULL)
    if data.get("layer_types") and len(kinds) != depth:
        raise UserError(
            f"layer_types must name {depth} layers; {fields.CONFIG} names {len(kinds)}; "
            "restore the file"
        )
    window = data.get("sliding_window", 4096)
    theta = rope.get("rope_theta", data.get("rope_theta", _THETA))
    scalar = data.get("query_pre_attn_scalar", 256)
    return TextConfig(
        vocab_size=fields.whole(data, "vocab_size"),
        hidden_size=fields.whole(data, "hidden_size"),
        intermediate_size=fields.whole(data, "intermediate_size"),
        depth=depth,
        num_heads=fields.whole(data, "num_attention_heads", 8),
        num_kv_heads=fields.whole(data, "num_key_value_heads", 4),
        head_dim=fields.whole(data, "head_dim", 256),
        activation="gelu",
        rope_theta=fields.number("rope_theta", theta),
        mrope_section=None,
        first_position=1,
        norm_eps=fields.number("rms_norm_eps", data.get("rms_norm_eps", _NORM_EPS)),
        norm_offset=1.0,
        qk_norm=False,
        sandwich_norms=True,
        query_pre_attn_scalar=fields.number("query_pre_attn_scalar", scalar),
        attn_logit_softcapping=_cap(data, "attn_logit_softcapping", 50.0),
        final_logit_softcapping=_cap(data, "final_logit_softcapping", 30.0),
        sliding_window=None
        if window is None
        else fields.whole(data, "sliding_window", 4096),
        sliding_layers=tuple(i for i in range(depth) if kinds[i] == _SLIDING),
        scale_embeddings=True,
        tie_embeddings=tie,
        prefix_attention="bidirectional",
        scan_layers=True,
        remat=True,
    )


def _cap(data: Mapping[str, Any], field: str, default: float) -> float | None:
    """A bound; off where the file says null, transformers' where it says nothing."""
    value = data.get(field, default)
    return None if value is None else fields.number(field, value)


def _plain_number(value: float) -> int | float:
    """Whole numbers without a point, as transformers checks."""
    return int(value) if value == int(value) else value
