"""A checkpoint with read-out heads converts there and back, bit by bit."""

import json

import jax
import numpy as np
import pytest
from ml_dtypes import bfloat16
from qwen3_vl_cases import CASES, our_params, stored_weights
from readout_cases import HEADS, with_heads
from safetensors import safe_open
from safetensors.numpy import save_file

from soler1_jax.checkpoints.conversion import Options
from soler1_jax.checkpoints.convert import convert
from soler1_jax.checkpoints.save_tuned import save_tuned
from soler1_jax.common.errors import UserError
from soler1_jax.reward.pretrained import load_vlm


def _write(folder, name, weights):
    folder.mkdir()
    data = CASES[name].hf() | {"architectures": ["RBM"], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(data))
    (folder / "tokenizer.json").write_text('{"added_tokens": ["<|prog_token|>"]}')
    save_file(weights, folder / "model.safetensors")
    return folder


def _mixed(weights):
    """The trunk in bfloat16 and the heads in float32."""
    return {n: w if "_head" in n else w.astype(bfloat16) for n, w in weights.items()}


def _read(folder):
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_there_and_back_changes_no_bit(tmp_path, name, wrapped):
    weights = _mixed(stored_weights(with_heads(name)))
    if wrapped:
        weights = {
            f"model.{n}" if n.startswith("model.") else n: w for n, w in weights.items()
        }
    source = _write(tmp_path / "hf", name, weights)
    convert(source, tmp_path / "converted")
    convert(tmp_path / "converted", tmp_path / "back", Options(to="hf"))
    found = _read(tmp_path / "back")
    assert set(found) == set(weights)
    for key, value in weights.items():
        assert found[key].dtype == value.dtype, key
        np.testing.assert_array_equal(found[key].view("u1"), value.view("u1"), key)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "back" / file).read_bytes() == (source / file).read_bytes()


def test_both_forms_load_alike_and_trained_heads_are_saved(tmp_path):
    config = with_heads("grouped")
    weights = stored_weights(config)
    source = _write(tmp_path / "hf", "grouped", weights)
    convert(source, tmp_path / "converted")
    wanted = our_params(config, weights)
    for folder in (source, tmp_path / "converted"):
        vlm = load_vlm(folder, "float32")
        assert vlm.config.heads == HEADS["grouped"]
        assert vlm.config.text.tie_embeddings
        jax.tree.map(np.testing.assert_array_equal, vlm.params, wanted)
        tuned = jax.tree.map(lambda x: x + 1, vlm.params)
        save_tuned(tmp_path / f"tuned-{folder.name}", tuned, folder, "float32")
        again = load_vlm(tmp_path / f"tuned-{folder.name}", "float32")
        jax.tree.map(np.testing.assert_array_equal, again.params, tuned)


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("success_head.4.weight", "progress_head.4.weight alone"),
        ("success_head.1.bias", "lacks success_head.1.bias"),
    ],
)
def test_half_a_head_is_refused(tmp_path, left_out, message):
    weights = stored_weights(with_heads("grouped"))
    del weights[left_out]
    source = _write(tmp_path / "hf", "grouped", weights)
    for act in (load_vlm, lambda s: convert(s, tmp_path / "converted")):
        with pytest.raises(UserError, match=message):
            act(source)
    assert not (tmp_path / "converted").exists()
