"""Loading a converted folder: the same as loading what it was made from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwen3_vl_cases import CHECKPOINT, SMALLEST, batch, prompts, stored_weights
from safetensors.numpy import save_file

import soler1_jax
from soler1_jax.checkpoints.conversion import Options
from soler1_jax.checkpoints.convert import convert
from soler1_jax.checkpoints.converted import WEIGHTS, load_converted
from soler1_jax.checkpoints.safetensors_files import SINGLE
from soler1_jax.checkpoints.save_tuned import save_tuned
from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.wording import WORDING, read_wording


def _assert_same(ours: dict, theirs: dict) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_have_the_same_bits(tmp_path: Path, stored: str, dtype: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALLEST.hf()))
    weights = stored_weights(SMALLEST.config())
    weights = {k: v.astype(jnp.dtype(stored)) for k, v in weights.items()}
    save_file(weights, folder / SINGLE)
    convert(folder, tmp_path / "made", Options(piece_bytes=300))
    hf = soler1_jax.load_vlm(folder, dtype)
    ours = soler1_jax.load_vlm(tmp_path / "made", dtype)
    _assert_same(ours.params, hf.params)


def test_logits_and_what_belongs_to_a_model(tmp_path: Path, qwen_folder: Path) -> None:
    source = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    for path in qwen_folder.iterdir():
        shutil.copy(path, source)
    data = json.loads((source / "config.json").read_text())
    data["text_config"]["eos_token_id"] = [7, 9]
    (source / "config.json").write_text(json.dumps(data))
    words = {"templates": {"external_from_zero": "{task}?"}, "system": "See."}
    (tmp_path / "words.json").write_text(json.dumps(words))
    wording = read_wording(tmp_path / "words.json")
    convert(source, tmp_path / "made", Options(wording=wording))
    hf, ours = (soler1_jax.load_vlm(f, "float32") for f in (source, tmp_path / "made"))
    given = batch(prompts(SMALLEST)[2:3])
    np.testing.assert_array_equal(ours.logits(**given), hf.logits(**given))
    assert ours.stop_ids == hf.stop_ids == (7, 9)
    assert ours.wording == wording and hf.wording is None
    text = "lift the red cube"
    assert ours.tokenizer.encode(text) == hf.tokenizer.encode(text)
    assert ours.tokenizer is ours.tokenizer


def test_tokenizer_and_processor_are_read_late(tmp_path: Path) -> None:
    model = soler1_jax.load_vlm(CHECKPOINT)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        _ = model.tokenizer
    with pytest.raises(UserError, match="copy the file|has none"):
        _ = model.processor
    model.folder = None
    with pytest.raises(UserError, match="load it with load_vlm"):
        _ = model.wording


def test_processor_of_a_converted_folder(tmp_path: Path, qwen_folder: Path) -> None:
    model = soler1_jax.load_vlm(CHECKPOINT)
    model.folder = qwen_folder
    assert model.processor is model.processor
    assert model.processor.tokenizer.vocab_size == model.tokenizer.vocab_size


def test_missing_numbers_are_never_zeros(tmp_path: Path) -> None:
    made = tmp_path / "made"
    convert(CHECKPOINT, made)
    chunk = next((made / WEIGHTS).glob("*mlp.up_proj.kernel/c/1/0/0"))
    chunk.unlink()
    about = json.loads((made / "soler1_conversion.json").read_text())
    about["files"].pop(str(chunk.relative_to(made)))
    (made / "soler1_conversion.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="missing or damaged; convert") as caught:
        load_converted(made)
    assert "\n" not in str(caught.value)


SHARDED = """
import sys
import jax, numpy as np
import soler1_jax
from soler1_jax.common.mesh import make_mesh

assert jax.device_count() == 4
one = soler1_jax.load_vlm(sys.argv[1], "float32").params
mesh = make_mesh([int(n) for n in sys.argv[3].split(",")])
for folder in sys.argv[1:3]:
    many = soler1_jax.load_vlm(folder, "float32", mesh).params
    held = [0] * 4
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(many)[0], jax.tree.leaves(one), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        for shard in a.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
            np.testing.assert_array_equal(shard.data, np.asarray(b)[shard.index])
    whole = sum(x.nbytes for x in jax.tree.leaves(one))
    # Norms and biases, and what four does not divide, are on every device.
    assert max(held) < whole * float(sys.argv[4]), (held, whole)
    assert min(held) == max(held)
kernel = many["language_model"]["layers"]["stacked"]["mlp"]["up_proj"]["kernel"]
assert kernel.addressable_shards[0].data.size * 4 == kernel.size
"""


@pytest.mark.parametrize("mesh", ["1,4,1", "1,2,2"])
def test_each_device_gets_its_share(tmp_path: Path, mesh: str) -> None:
    convert(CHECKPOINT, tmp_path / "made", Options(piece_bytes=700))
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    places = [str(CHECKPOINT), str(tmp_path / "made")]
    command = [sys.executable, "-c", SHARDED, *places, mesh, "0.5"]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_words_are_a_file_like_any_other(tmp_path: Path) -> None:
    words = {"templates": {"external_from_zero": "{task}?"}}
    (tmp_path / "words.json").write_text(json.dumps(words))
    wording = read_wording(tmp_path / "words.json")
    convert(CHECKPOINT, tmp_path / "made", Options(wording=wording))
    (tmp_path / "made" / WORDING).unlink()
    with pytest.raises(UserError, match=f"{WORDING} is missing"):
        load_converted(tmp_path / "made")


def test_trained_parameters_become_a_folder(tmp_path: Path) -> None:
    source = Path(shutil.copytree(CHECKPOINT, tmp_path / "hf"))
    (source / "tokenizer.json").write_text("{}")
    tuned = jax.tree.map(
        lambda x: x * 1.01, soler1_jax.load_vlm(source, "float32").params
    )
    save_tuned(tmp_path / "tuned", tuned, source, "float32", piece_bytes=500)
    again = soler1_jax.load_vlm(tmp_path / "tuned", "float32")
    _assert_same(again.params, tuned)
    assert (tmp_path / "tuned/tokenizer.json").is_file()
    # From a converted folder as well, and on to Hugging Face.
    save_tuned(tmp_path / "next", again.params, tmp_path / "tuned")
    convert(tmp_path / "next", tmp_path / "back", Options(to="hf"))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tuned)
    _assert_same(soler1_jax.load_vlm(tmp_path / "back").params, rounded)
    with pytest.raises(UserError, match="new or empty folder"):
        save_tuned(tmp_path / "next", tuned, source)
    del tuned["embed_tokens"]
    with pytest.raises(UserError, match="embed_tokens.* is missing"):
        save_tuned(tmp_path / "other", tuned, source)
    assert not (tmp_path / "other").exists()
