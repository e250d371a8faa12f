"""safetensors folders: what transformers wrote is what we read; damage in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen3_vl_cases import CHECKPOINT, SMALLEST, Case, our_params, stored_weights
from safetensors.numpy import save_file

from soler1_jax.checkpoints.hf_config import to_hf
from soler1_jax.checkpoints.hf_weights import load_hf, to_stored
from soler1_jax.checkpoints.safetensors_files import INDEX, SINGLE
from soler1_jax.common.errors import UserError

Weights = dict[str, np.ndarray]


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Three files and an index."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "sharded"))


def _single(folder: Path, weights: Weights, case: Case = SMALLEST) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hf(case.config())))
    save_file(weights, folder / SINGLE)
    return folder


def _assert_same(ours: dict, theirs: dict) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_folder_written_by_transformers(sharded: Path, dtype: str) -> None:
    config, params = load_hf(sharded, dtype)
    assert config.name == "sharded" and config.dtype == dtype
    expected = our_params(SMALLEST.config("bfloat16"), stored_weights(config))
    _assert_same(params, jax.tree.map(lambda x: x.astype(dtype), expected))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_file_and_every_dtype(tmp_path: Path, dtype: str) -> None:
    weights = stored_weights(SMALLEST.config())
    cast = {k: v.astype(jnp.dtype(dtype)) for k, v in weights.items()}
    config, params = load_hf(_single(tmp_path, cast), "float32")
    rounded = {k: v.astype(np.float32) for k, v in cast.items()}
    _assert_same(params, our_params(config, rounded))


def test_parameters_go_back(sharded: Path) -> None:
    config, params = load_hf(sharded, "bfloat16")
    stored = dict(to_stored(config, params))
    weights = stored_weights(config)
    assert stored.keys() == weights.keys()
    for name, value in stored.items():
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, weights[name].astype(value.dtype))


def test_a_tied_model_may_store_its_head_twice(tmp_path: Path) -> None:
    case = Case(**{**SMALLEST.__dict__, "tie": True})
    weights = stored_weights(case.config())
    table = weights["model.language_model.embed_tokens.weight"]
    weights["lm_head.weight"] = table
    assert "lm_head" not in load_hf(_single(tmp_path, weights, case))[1]
    weights["lm_head.weight"] = table + 1
    with pytest.raises(UserError, match="stored ones differ"):
        load_hf(_single(tmp_path, weights, case))


def _lose(weights: Weights) -> None:
    del weights["model.visual.blocks.1.norm2.bias"]


def _rename(weights: Weights) -> None:
    weights["model.head"] = weights.pop("lm_head.weight")


def _add(weights: Weights) -> None:
    weights["progress_head.weight"] = np.zeros((2, 2), np.float32)


def _reshape(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"].T.copy()


def _quantise(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"].astype(np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose, r"lacks model\.visual\.blocks\.1\.norm2\.bias;"),
        (_rename, r"lacks lm_head\.weight, but has model\.head;"),
        (_add, r"has progress_head\.weight; remove"),
        (_reshape, r"lm_head\.weight should have shape \[97, 16\] and has \[16, 97\]"),
        (_quantise, r"lm_head\.weight is I32"),
    ],
)
def test_wrong_tensors(
    tmp_path: Path, change: Callable[[Weights], None], message: str
) -> None:
    weights = stored_weights(SMALLEST.config())
    change(weights)
    with pytest.raises(UserError, match=message) as caught:
        load_hf(_single(tmp_path, weights))
    assert "\n" not in str(caught.value)


def _truncate(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


def _forget(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[0].unlink()


def _garble(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": 3}')


def _misplace(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    name = next(n for n, f in index["weight_map"].items() if f == files[0])
    index["weight_map"][name] = files[1]
    (folder / INDEX).write_text(json.dumps(index))


def _strip(folder: Path) -> None:
    (folder / INDEX).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "00002-of-00003.* cannot be read"),
        (_forget, "00001-of-00003.* cannot be read"),
        (_garble, "must be an index"),
        (_misplace, "it does not; copy"),
        (_strip, "has neither"),
    ],
)
def test_damaged_folders(
    sharded: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(sharded)
    with pytest.raises(UserError, match=message) as caught:
        load_hf(sharded)
    assert "\n" not in str(caught.value)


def test_unknown_dtypes_are_refused() -> None:
    with pytest.raises(UserError, match="float32 or bfloat16; got 'int8'"):
        load_hf(CHECKPOINT, "int8")
