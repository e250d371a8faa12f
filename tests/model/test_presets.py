"""Configurations: published sizes, JSON, and refusals in one line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, parameter_count


def test_qwen3_vl_2b_has_the_published_parameter_count() -> None:
    shapes = Functional(presets.preset("qwen3-vl-2b")).shapes()
    assert parameter_count(shapes) == 2_127_532_032


def test_nano_is_nano() -> None:
    count = parameter_count(Functional(presets.nano(512)).shapes())
    assert 1.4e6 < count < 2.5e6


@pytest.mark.parametrize(
    ("name", "low", "high"), [("pico", 0.3e6, 0.7e6), ("mini", 10e6, 30e6)]
)
def test_the_sizes_beside_nano_look_at_the_same_pictures(name, low, high) -> None:
    config = presets.preset(name, 512)
    assert low < parameter_count(Functional(config).shapes()) < high
    assert config.vision.map_patch == presets.nano(512).vision.map_patch
    assert config.wrist_map_patch == presets.nano(512).wrist_map_patch
    prompt = jnp.ones((1, 3), jnp.int32)
    model = Functional(config)

    def answer(params):
        frames = jnp.zeros((1, 64, 64, 3), jnp.uint8)
        seen = model.encode(params, frames, frames)
        grounded = model.ground(params, seen, prompt, prompt > 0)
        prefix = model.prefix(params, [grounded] * 3, prompt, prompt > 0)
        return model.logits(params, prefix, prompt, prompt > 0).value_logits

    shapes = jax.eval_shape(answer, model.shapes())
    assert shapes.shape == (1, 3, 41)


@pytest.mark.parametrize("name", ["nano", "micro", "qwen3-vl-8b"])
def test_json_round_trip(name: str) -> None:
    config = presets.preset(name, 300)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_names_are_hinted() -> None:
    with pytest.raises(UserError, match="'nano'"):
        presets.preset("nani")
    data = presets.nano(300).to_json()
    data["text"]["head_dimm"] = 1
    with pytest.raises(UserError, match="'head_dim'"):
        ModelConfig.from_json(data)
    del data["text"]["head_dimm"], data["text"]["depth"]
    with pytest.raises(UserError, match="depth"):
        ModelConfig.from_json(data)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision", {"image_size": 50}, "multiple of 32"),
        ("vision", {"num_heads": 5}, "multiple of 4"),
        ("vision", {"deepstack_indexes": (3,)}, "blocks 0 to 2"),
        ("text", {"mrope_section": (6, 5, 4)}, "sum to half"),
        ("text", {"num_kv_heads": 3}, "divide"),
    ],
)
def test_impossible_sizes_are_refused(part: str, change: dict, message: str) -> None:
    config = presets.nano(300)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(getattr(config, part), **change)
