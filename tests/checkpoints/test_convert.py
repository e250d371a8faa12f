"""Conversion: bits, files, memory, and what happens when something is wrong."""

import dataclasses
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from qwen3_vl_cases import CHECKPOINT, SMALLEST, Case, stored_weights
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from soler1_jax.checkpoints import hf_qwen3_vl, hf_weights
from soler1_jax.checkpoints.conversion import Options
from soler1_jax.checkpoints.convert import convert
from soler1_jax.checkpoints.converted import ABOUT, WEIGHTS
from soler1_jax.checkpoints.orbax_arrays import ArrayReader
from soler1_jax.checkpoints.safetensors_files import INDEX, SINGLE, StoredTensor
from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.wording import WORDING

Weights = dict[str, np.ndarray]
STACKED = "model.language_model.layers.{}.mlp.up_proj.weight"
# Pieces of a few rows, so that every tensor of the small models is cut.
SMALL = Options(piece_bytes=300)
BACK = Options(to="hf", piece_bytes=300)
TIED = dataclasses.replace(SMALLEST, tie=True)


def _folder(
    folder: Path, case: Case = SMALLEST, weights: Weights | None = None
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(case.hf()))
    weights = stored_weights(case.config()) if weights is None else weights
    save_file(weights, folder / SINGLE)
    return folder


def _tensors(folder: Path) -> Weights:
    found: Weights = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def _assert_same_bits(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


def _there_and_back(folder: Path, **options: int) -> Path:
    made, back = folder.with_name("made"), folder.with_name("back")
    convert(folder, made, SMALL)
    convert(made, back, dataclasses.replace(BACK, **options))
    return back


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_bit_comes_back(tmp_path: Path, dtype: str) -> None:
    weights = {
        name: value.astype(jnp.dtype(dtype))
        for name, value in stored_weights(SMALLEST.config()).items()
    }
    # Zeros of both signs, infinities, and not-a-numbers of every kind.
    odd = np.arange(0, 2**16, 61, dtype=np.uint16)
    odd = odd.astype(np.uint32) << 16 if dtype == "float32" else odd
    table = weights[hf_qwen3_vl.EMBEDDINGS]
    table.reshape(-1)[: len(odd)] = odd.view(table.dtype)
    weights[STACKED.format(1)] = np.zeros_like(weights[STACKED.format(1)])
    folder = _folder(tmp_path / "hf", weights=weights)
    _assert_same_bits(_tensors(_there_and_back(folder)), weights)


def test_tensors_of_one_stack_keep_their_own_dtypes(tmp_path: Path) -> None:
    weights = stored_weights(TIED.config())
    weights[STACKED.format(0)] = weights[STACKED.format(0)].astype(np.float16)
    weights[STACKED.format(1)] = weights[STACKED.format(1)].astype(jnp.bfloat16)
    table = weights[hf_qwen3_vl.EMBEDDINGS].astype(jnp.bfloat16)
    weights[hf_qwen3_vl.EMBEDDINGS], weights[hf_qwen3_vl.HEAD] = (
        table,
        table.astype("f4"),
    )
    folder = _folder(tmp_path / "hf", TIED, weights)
    _assert_same_bits(_tensors(_there_and_back(folder)), weights)


def test_files_come_along_and_shards_have_an_index(tmp_path: Path) -> None:
    source = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    others = {"tokenizer.json": b"{}", "chat_template.jinja": b"\xff", "LICENSE": b"x"}
    for name, data in others.items():
        (source / name).write_bytes(data)
    (source / "optimizer.pt").write_bytes(b"x" * 100)
    back = _there_and_back(source, shard_bytes=12_000)
    for name in (*others, "config.json", "generation_config.json"):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    assert not (back / "optimizer.pt").exists()
    index = json.loads((back / INDEX).read_text())
    weights = _tensors(CHECKPOINT)
    assert index["metadata"] == {
        "total_size": sum(w.nbytes for w in weights.values()),
        "total_parameters": sum(w.size for w in weights.values()),
    }
    files = sorted(back.glob("*.safetensors"))
    names = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(5)]
    assert [path.name for path in files] == names
    held = {}
    for path in files:
        with safe_open(path, "numpy") as stored:
            assert stored.metadata() == {"format": "pt"}
            held |= dict.fromkeys(stored.keys(), path.name)
        assert sum(w.nbytes for w in load_file(path).values()) <= 12_000
    assert held == index["weight_map"]
    _assert_same_bits(_tensors(back), weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_rounds_and_the_configuration_says_so(tmp_path: Path, dtype: str) -> None:
    data = {**SMALLEST.hf(), "dtype": "float32", "extra": {"torch_dtype": "float32"}}
    folder = _folder(tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(data))
    rounded = {
        name: value.astype(jnp.dtype(dtype)) for name, value in _tensors(folder).items()
    }
    convert(folder, tmp_path / "made", Options(dtype=dtype))
    convert(tmp_path / "made", tmp_path / "back", BACK)
    convert(folder, tmp_path / "kept")
    convert(tmp_path / "kept", tmp_path / "late", Options(to="hf", dtype=dtype))
    for name in ("back", "late"):
        _assert_same_bits(_tensors(tmp_path / name), rounded)
        found = json.loads((tmp_path / name / "config.json").read_text())
        assert found == data | {"dtype": dtype, "extra": {"torch_dtype": dtype}}


def test_numbers_beyond_the_dtype_are_named(tmp_path: Path) -> None:
    weights = stored_weights(SMALLEST.config())
    weights[STACKED.format(1)][3, 5] = 1e5
    folder = _folder(tmp_path / "hf", weights=weights)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj.* beyond float16"):
        convert(folder, tmp_path / "made", Options(dtype="float16"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_any_orbax_program_can_read_the_weights(tmp_path: Path) -> None:
    convert(CHECKPOINT, tmp_path / "made", SMALL)
    tree = ocp.StandardCheckpointer().restore(tmp_path / "made" / WEIGHTS)
    kernel = tree["language_model"]["layers"]["stacked"]["mlp"]["up_proj"]["kernel"]
    weights = _tensors(CHECKPOINT)
    assert kernel.dtype == weights[STACKED.format(0)].dtype
    for layer in range(2):
        np.testing.assert_array_equal(kernel[layer], weights[STACKED.format(layer)].T)


class _Live:
    """Counts the bytes of arrays that somebody holds."""

    def __init__(self) -> None:
        self.now = self.peak = self.total = 0

    def counted(self, read: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def counting(*args: object) -> np.ndarray:
            values = read(*args)
            # What owns the numbers lives as long as any view of them.
            owner = values
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            self.now += values.nbytes
            self.total += values.nbytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(owner, self._gone, values.nbytes)
            return values

        return counting

    def _gone(self, nbytes: int) -> None:
        self.now -= nbytes


@pytest.mark.parametrize("case", [SMALLEST, TIED])
def test_memory_holds_a_few_pieces(tmp_path: Path, monkeypatch, case: Case) -> None:
    weights = stored_weights(case.config())
    if case.tie:
        weights[hf_qwen3_vl.HEAD] = weights[hf_qwen3_vl.EMBEDDINGS]
    size = sum(value.nbytes for value in weights.values())
    folder = _folder(tmp_path / "hf", case, weights)
    piece = 1_000
    # All layers of a stack, or even one tensor, would be more than is allowed.
    assert weights[hf_qwen3_vl.EMBEDDINGS].nbytes > 6 * piece < size / 10
    for reader, source, target, to in (
        (StoredTensor, folder, tmp_path / "made", "orbax"),
        (ArrayReader, tmp_path / "made", tmp_path / "back", "hf"),
    ):
        live = _Live()
        with monkeypatch.context() as patch:
            patch.setattr(reader, "read", live.counted(reader.read))
            patch.setattr(hf_weights, "_COMPARED", 10)
            convert(source, target, Options(to=to, piece_bytes=piece))
        assert live.total >= size
        assert live.peak <= 3 * piece, to


def _words(folder: Path, text: str) -> None:
    data = {"templates": {"external_from_zero": text}}
    (folder / WORDING).write_text(json.dumps(data))


def test_words_of_a_rewarder_stay_with_it(tmp_path: Path) -> None:
    source = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    _words(source, "{task}?")
    back = _there_and_back(source)
    found = json.loads((back / WORDING).read_text())
    assert found["templates"] == {"external_from_zero": "{task}?"}
    _words(source, "nothing")
    with pytest.raises(UserError, match="holds neither"):
        convert(source, tmp_path / "other")


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    source = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    made = tmp_path / "made"
    made.mkdir()
    assert convert(source, made).fresh
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert not convert(source, made).fresh
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    with pytest.raises(UserError, match="something that is not this conversion"):
        convert(source, made, Options(dtype="float32"))
    next((made / WEIGHTS).glob("*/c/0*")).rename(made / "moved")
    with pytest.raises(UserError, match="something that is not this conversion"):
        convert(source, made)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        convert(source, tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "hf", "made"]


def test_source_and_target_are_told_apart(tmp_path: Path) -> None:
    made = tmp_path / "made"
    convert(CHECKPOINT, made)
    with pytest.raises(UserError, match="has been already; load it"):
        convert(made, tmp_path / "other")
    with pytest.raises(UserError, match="leave out --to hf"):
        convert(CHECKPOINT, tmp_path / "other", BACK)
    with pytest.raises(UserError, match="is not there"):
        convert(tmp_path / "nothing", tmp_path / "other")
    for place in (made, made / "inside", tmp_path):
        with pytest.raises(UserError, match="outside the old one"):
            convert(made, place, BACK)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def _lose(folder: Path, weights: Weights) -> None:
    del weights[STACKED.format(1)]


def _add(folder: Path, weights: Weights) -> None:
    weights["extra.weight"] = np.zeros(2, np.float32)


def _reshape(folder: Path, weights: Weights) -> None:
    weights[STACKED.format(1)] = weights[STACKED.format(1)].T.copy()


def _quantise(folder: Path, weights: Weights) -> None:
    weights[STACKED.format(1)] = weights[STACKED.format(1)].astype(np.int8)


def _reconfigure(folder: Path, weights: Weights) -> None:
    data = SMALLEST.hf()
    data["vision_config"]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(data))


def _narrow(folder: Path, weights: Weights) -> None:
    data = SMALLEST.hf()
    data["text_config"]["intermediate_size"] += 1
    (folder / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose, r"lacks model\.language_model\.layers\.1\.mlp\.up_proj\.weight;"),
        (_add, r"has extra\.weight; remove"),
        (_reshape, r"up_proj\.weight should have shape \[32, 16\] and has \[16, 32\]"),
        (_quantise, r"up_proj\.weight is I8"),
        (_reconfigure, "hidden_act"),
        (_narrow, r"should have shape \[.*33.*\] and has"),
    ],
)
def test_a_wrong_source_is_one_line_and_leaves_nothing(
    tmp_path: Path, change: Callable[[Path, Weights], None], message: str
) -> None:
    folder = _folder(tmp_path / "hf")
    weights = stored_weights(SMALLEST.config())
    change(folder, weights)
    save_file(weights, folder / SINGLE)
    with pytest.raises(UserError, match=message) as caught:
        convert(folder, tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_truncated_files_are_seen_before_anything_is_written(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    path = sorted(folder.glob("*.safetensors"))[2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="00003-of-00003.* cannot be read"):
        convert(folder, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def _drop_chunk(made: Path) -> None:
    next((made / WEIGHTS).glob("*mlp.up_proj.kernel/c/1/0/0")).unlink()


def _cut_chunk(made: Path) -> None:
    path = next((made / WEIGHTS).glob("*mlp.up_proj.kernel/c/1/0/0"))
    path.write_bytes(path.read_bytes()[:-1])


def _garble(made: Path) -> None:
    (made / ABOUT).write_text('{"format": 1, "files": 3}')


def _other_version(made: Path) -> None:
    (made / ABOUT).write_text('{"format": 2}')


def _deepen(made: Path) -> None:
    data = json.loads((made / "config.json").read_text())
    data["text_config"]["num_hidden_layers"] = 3
    _rewrite(made, "config.json", json.dumps(data))


def _drop_array(made: Path) -> None:
    about = json.loads((made / ABOUT).read_text())
    shutil.rmtree(made / WEIGHTS / "lm_head.kernel")
    about["files"] = {k: v for k, v in about["files"].items() if "lm_head" not in k}
    (made / ABOUT).write_text(json.dumps(about))


def _rewrite(made: Path, name: str, text: str) -> None:
    """Changes a file and what is said of it."""
    (made / name).write_text(text)
    about = json.loads((made / ABOUT).read_text())
    about["files"][name] = len(text)
    (made / ABOUT).write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_chunk, "up_proj.kernel/c/1/0/0 is missing or has another length"),
        (_cut_chunk, "up_proj.kernel/c/1/0/0 is missing or has another length"),
        (_garble, "is not as it was written"),
        (_other_version, "of format 1; .* has another"),
        (_deepen, r"should have shape \[3, .*\] and has \[2, "),
        (_drop_array, r"lacks lm_head\.kernel"),
    ],
)
def test_a_damaged_converted_folder_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    made = tmp_path / "made"
    convert(CHECKPOINT, made)
    damage(made)
    with pytest.raises(UserError, match=message) as caught:
        convert(made, tmp_path / "back", BACK)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
