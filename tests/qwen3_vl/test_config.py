"""config.json: released files are our presets; what we do not implement is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from qwen3_vl_cases import CASES, CHECKPOINT, RELEASED, SMALLEST, released

from soler1_jax.checkpoints.hf_config import from_hf, read_hf_json, to_hf
from soler1_jax.common.errors import UserError
from soler1_jax.model import presets


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_the_presets(name: str) -> None:
    config = presets.preset(name)
    data = released(name)
    assert from_hf(data, name=name) == config
    written = json.loads(json.dumps(to_hf(config, data)))
    assert from_hf(written, name=name) == config
    for part in ("vision_config", "text_config"):
        assert {k: written[part][k] for k in data[part]} == data[part]
    assert written["text_config"]["eos_token_id"] == 151645


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
        ("model_type", "qwen3_vl_moe", "'qwen3_vl' only"),
        ("quantization_config", {"bits": 4}, "quantization_config None only"),
        ("image_token_id", None, "image_token_id must be a positive"),
        ("text_config", None, "object text_config"),
        ("text_config.hidden_act", "gelu", "'silu' only"),
        ("text_config.attention_bias", True, "attention_bias False only"),
        ("text_config.attention_dropout", 0.1, "attention_dropout 0 only"),
        ("text_config.layer_types", ["sliding_attention"], "layer_types"),
        ("text_config.rope_scaling.rope_type", "yarn", "'default' only; .*'yarn'"),
        ("text_config.rope_scaling.mrope_interleaved", False, "mrope_interleaved"),
        ("text_config.rope_scaling.mrope_section", [4, 4], "time, height and width"),
        ("text_config.rope_scaling.mrope_section", ["4"], "list of whole numbers"),
        ("text_config.rope_scaling.mrope_section", [4, 2, 1], "sum to half"),
        ("text_config.rope_scaling", "default", "object rope_scaling"),
        ("text_config.rope_theta", "big", "positive number"),
        ("text_config.num_hidden_layers", 2.5, "positive whole number"),
        ("text_config.num_key_value_heads", 3, "divide"),
        ("text_config.head_dim", None, "head_dim"),
        ("vision_config.hidden_act", "silu", "'gelu_pytorch_tanh' only"),
        ("vision_config.in_channels", 1, "in_channels 3 only"),
        ("vision_config.out_hidden_size", 64, "out_hidden_size 48 only"),
        ("vision_config.num_position_embeddings", 40, "square"),
        ("vision_config.deepstack_visual_indexes", [1, 0], "must rise"),
        ("vision_config.deepstack_visual_indexes", None, "list of whole numbers"),
        ("vision_config.deepstack_visual_indexes", [7], "blocks 0 to 2"),
        ("vision_config.rope_parameters", {"rope_theta": 1e5}, "rope_theta 10000"),
        ("vision_config.patch_size", [4, 4], "patch_size must be"),
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
    with pytest.raises(UserError, match="heat maps, frame roles"):
        to_hf(presets.nano(300))


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        read_hf_json(tmp_path)
    for text, message in (("{", "must be JSON"), ("[]", "JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            read_hf_json(tmp_path)
