"""config.json: released files are our presets; what we do not implement is refused."""

import copy
import dataclasses
import json
from typing import Any

import pytest
from paligemma_cases import CASES, CHECKPOINT, RELEASED, SMALLEST, released

from soler1_jax.checkpoints.hf_config import from_hf, read_hf_json, to_hf
from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.config import ModelConfig


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_the_presets(name: str) -> None:
    config = presets.preset(name)
    data = released(name)
    assert from_hf(data, name=name) == config
    written = json.loads(json.dumps(to_hf(config, data)))
    assert from_hf(written, name=name) == config
    for part in ("vision_config", "text_config"):
        assert {k: written[part][k] for k in data[part]} == data[part]
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str) -> None:
    config = CASES[name].config()
    data = json.loads(json.dumps(to_hf(config)))
    assert from_hf(data, name=config.name, dtype="float32") == config


def test_the_form_of_transformers_5_is_read_too() -> None:
    data = read_hf_json(CHECKPOINT)
    assert "rope_theta" not in data["text_config"]
    assert from_hf(data) == SMALLEST.config("bfloat16")
    assert from_hf(to_hf(from_hf(data), data)) == from_hf(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "gemma3", "'paligemma' or 'qwen3_vl' only"),
        ("text_config.model_type", "gemma", "'gemma2' only"),
        ("vision_config.model_type", "clip", "'siglip_vision_model' only"),
        ("text_config.hidden_activation", "silu", "'gelu_pytorch_tanh' only"),
        ("text_config.attention_bias", True, "attention_bias False only"),
        ("text_config.use_bidirectional_attention", False, "bidirectional"),
        ("text_config.layer_types", ["chunked"], "'full_attention' only"),
        ("text_config.layer_types", ["full_attention"], "names 1"),
        ("text_config.sliding_window", None, "window"),
        ("text_config.sliding_window", 2.5, "positive whole number"),
        ("text_config.attn_logit_softcapping", 0, "positive number"),
        ("text_config.rope_scaling", {"rope_type": "yarn"}, "'default' only"),
        ("vision_config.hidden_act", "silu", "'gelu_pytorch_tanh' only"),
        ("vision_config.layer_norm_eps", 1e-5, "layer_norm_eps 1e-06 only"),
        ("vision_config.vision_use_head", True, "vision_use_head False only"),
        ("vision_config.image_size", 41, "multiple of 4"),
        ("projection_dim", 7, "projection_dim 48 only"),
        ("image_token_index", None, "image_token_index must be a positive"),
    ],
)
def test_refusals_are_one_line(path: str, value: Any, message: str) -> None:
    data = copy.deepcopy(CASES["grouped"].hf())
    node = data
    *outer, last = path.split(".")
    for key in outer:
        node = node[key]
    node[last] = value
    with pytest.raises(UserError, match=message) as caught:
        from_hf(data)
    assert "\n" not in str(caught.value)


def test_models_with_other_parts_have_no_such_file() -> None:
    config = CASES["grouped"].config()
    text = dataclasses.replace(config.text, qk_norm=True, prefix_attention="causal")
    with pytest.raises(UserError, match="has a causal prefix, another decoder"):
        to_hf(dataclasses.replace(config, text=text))
