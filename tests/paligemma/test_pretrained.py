"""Folders: what transformers wrote is what we read, under any of its names."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from paligemma_cases import CHECKPOINT, SMALLEST, batch, our_params, prompts
from paligemma_cases import stored_weights as drawn
from safetensors.numpy import save_file

import soler1_jax
from soler1_jax.checkpoints.hf_config import to_hf
from soler1_jax.checkpoints.hf_paligemma import EMBEDDINGS, HEAD
from soler1_jax.checkpoints.hf_weights import load_hf, to_stored
from soler1_jax.checkpoints.safetensors_files import SINGLE
from soler1_jax.common.errors import UserError

Weights = dict[str, np.ndarray]


def _single(folder: Path, weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(SMALLEST.config())))
    save_file(weights, folder / SINGLE)
    return folder


def _assert_same(ours: dict, theirs: dict) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def model() -> soler1_jax.load_vlm:
    return soler1_jax.load_vlm(CHECKPOINT, dtype="float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_folder_written_by_transformers(dtype: str) -> None:
    config, params = load_hf(CHECKPOINT, dtype)
    expected = our_params(SMALLEST.config("bfloat16"), drawn(config))
    _assert_same(params, jax.tree.map(lambda x: x.astype(dtype), expected))
    stored = dict(to_stored(config, params))
    assert stored.keys() == drawn(config).keys()
    for name, value in stored.items():
        assert value.flags.c_contiguous
        wanted = drawn(config)[name].astype(jax.numpy.bfloat16)
        np.testing.assert_array_equal(value, wanted.astype(dtype))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "vision_tower."),
        ("vision_tower.vision_model.", "model.vision_tower."),
    ],
)
def test_names_of_other_writers(tmp_path: Path, old: str, new: str) -> None:
    weights = drawn(SMALLEST.config())
    renamed = {name.replace(old, new): value for name, value in weights.items()}
    assert renamed.keys() != weights.keys()
    _, params = load_hf(_single(tmp_path, renamed), "float32")
    _assert_same(params, our_params(SMALLEST.config(), weights))


@pytest.mark.parametrize("name", [HEAD, "lm_head.weight"])
def test_the_head_may_be_stored_too(tmp_path: Path, name: str) -> None:
    weights = drawn(SMALLEST.config())
    weights[name] = weights[EMBEDDINGS]
    assert "lm_head" not in load_hf(_single(tmp_path, weights))[1]
    weights[name] = weights[EMBEDDINGS] + 1
    with pytest.raises(UserError, match="stored ones differ"):
        load_hf(_single(tmp_path, weights))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    weights = drawn(SMALLEST.config())
    del weights["vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(UserError, match=r"lacks .*self_attn\.k_proj\.bias;"):
        load_hf(_single(tmp_path, weights))


def test_it_takes_what_a_processor_returns(model) -> None:
    given = batch(prompts(SMALLEST)[2:])
    ids = given["input_ids"]
    logits = model.logits(**given, token_type_ids=np.zeros_like(ids))
    assert logits.shape == (*ids.shape, 97) and logits.dtype == np.float32
    assert np.all(np.isfinite(logits))
    # Soft capping bounds them.
    assert np.abs(logits).max() < 30
    with pytest.raises(UserError, match="all prefix"):
        model.logits(**given, token_type_ids=np.ones_like(ids))
    given["pixel_values"] = given["pixel_values"][..., :4]
    with pytest.raises(UserError, match=r"shape \[3, 8, 8\]; got \[3, 8, 4\]"):
        model.generate(**given)


def test_end_tokens_come_from_the_folder(model, tmp_path: Path) -> None:
    assert model.stop_ids == (1,)
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    assert soler1_jax.load_vlm(folder).stop_ids == (1, 7)
