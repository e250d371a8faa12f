"""Conversion of PaliGemma 2, several of whose tensors make one parameter."""

import json
from pathlib import Path

import gemma_tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paligemma_cases import CASES, CHECKPOINT, SMALLEST, batch, prompts, stored_weights
from safetensors.numpy import load_file, save_file

import soler1_jax
from soler1_jax.checkpoints.conversion import Options
from soler1_jax.checkpoints.convert import convert
from soler1_jax.checkpoints.hf_paligemma import EMBEDDINGS, HEAD
from soler1_jax.checkpoints.safetensors_files import SINGLE
from soler1_jax.checkpoints.save_tuned import save_tuned
from soler1_jax.common.errors import UserError
from soler1_jax.reward.load import load_rewarder
from soler1_jax.tokenizers.gemma import GemmaTokenizer

Weights = dict[str, np.ndarray]
QKV = "vision_tower.vision_model.encoder.layers.{}.self_attn.{}_proj.{}"
CASE = CASES["grouped"]
BACK = Options(to="hf", piece_bytes=300)


def _folder(folder: Path, weights: Weights) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CASE.hf()))
    save_file(weights, folder / SINGLE)
    return folder


def _assert_same_bits(folder: Path, weights: Weights) -> None:
    found: Weights = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def _assert_same(ours: dict, theirs: dict) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("piece", [300, 1_000, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_bit_comes_back(tmp_path: Path, dtype: str, piece: int) -> None:
    drawn = stored_weights(CASE.config())
    weights = {name: value.astype(jnp.dtype(dtype)) for name, value in drawn.items()}
    folder, made = _folder(tmp_path / "hf", weights), tmp_path / "made"
    convert(folder, made, Options(piece_bytes=piece))
    convert(made, tmp_path / "back", BACK)
    _assert_same_bits(tmp_path / "back", weights)
    for kind in ("float32", "bfloat16"):
        ours, hf = (soler1_jax.load_vlm(f, kind).params for f in (made, folder))
        _assert_same(ours, hf)


def test_names_and_dtypes_of_any_writer_come_back(tmp_path: Path) -> None:
    weights = stored_weights(CASE.config())
    for layer, which, kind, dtype in (
        (0, "k", "weight", "f2"),
        (2, "v", "weight", "f2"),
        (1, "q", "bias", jnp.bfloat16),
    ):
        name = QKV.format(layer, which, kind)
        weights[name] = weights[name].astype(dtype)
    weights[HEAD] = weights[EMBEDDINGS]
    for old, new in (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
    ):
        weights = {name.replace(old, new): value for name, value in weights.items()}
    folder, made = _folder(tmp_path / "hf", weights), tmp_path / "made"
    convert(folder, made, Options(piece_bytes=300))
    convert(made, tmp_path / "back", BACK)
    _assert_same_bits(tmp_path / "back", weights)
    weights[HEAD] = weights["lm_head.weight"]
    save_file(weights, folder / SINGLE)
    with pytest.raises(UserError, match="holds each tensor once"):
        convert(folder, tmp_path / "other")


def test_a_converted_model_is_the_same_model(tmp_path: Path) -> None:
    made = tmp_path / "made"
    convert(CHECKPOINT, made)
    hf, ours = (soler1_jax.load_vlm(f, "float32") for f in (CHECKPOINT, made))
    given = batch(prompts(SMALLEST)[2:])
    np.testing.assert_array_equal(ours.logits(**given), hf.logits(**given))
    assert ours.stop_ids == hf.stop_ids
    tuned = jax.tree.map(lambda x: x * 1.01, hf.params)
    save_tuned(tmp_path / "tuned", tuned, made, "float32", piece_bytes=100)
    _assert_same(soler1_jax.load_vlm(tmp_path / "tuned", "float32").params, tuned)


def test_tokenizer_and_processor_are_gemmas(tmp_path: Path) -> None:
    model = soler1_jax.load_vlm(CHECKPOINT)
    with pytest.raises(UserError, match="a Gemma tokenizer"):
        _ = model.tokenizer
    model.folder = gemma_tiny.write_folder(tmp_path / "words")
    assert isinstance(model.tokenizer, GemmaTokenizer)
    with pytest.raises(UserError, match="preprocessor_config"):
        _ = model.processor
    pictures = {"image_seq_length": 16, "size": {"height": 28, "width": 28}}
    (model.folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    assert model.processor.image.tokens == 16


def test_it_is_no_rewarder() -> None:
    with pytest.raises(UserError, match="rewarder is a Qwen3-VL") as caught:
        load_rewarder(CHECKPOINT)
    assert "\n" not in str(caught.value)
