"""Model folders: what is written is what is read; damage is told in one line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.checkpoints import store
from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional
from soler1_jax.tokenizers.sentencepiece import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["lift the red cube", "<think> hand nears </think><answer>+040</answer>"]
    return train_tokenizer(texts, tmp_path_factory.mktemp("t") / "t.model", 200)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Functional:
    return Functional(presets.micro(tokenizer.vocab_size))


@pytest.fixture
def folder(tmp_path: Path, model: Functional, tokenizer: Tokenizer) -> Path:
    path = tmp_path / "deep" / "model"
    store.save_model(path, model.config, model.init(0), tokenizer, {"mae": 9.5})
    return path


def test_float16_folder_gives_back_config_words_and_rounded_weights(
    folder: Path, model: Functional, tokenizer: Tokenizer
) -> None:
    config, params, words = store.load_model(folder)
    assert config == model.config
    assert words.encode("lift the red cube") == tokenizer.encode("lift the red cube")
    rounded = jax.tree.map(
        lambda a: a.astype(jnp.float16).astype(jnp.float32), model.init(0)
    )
    jax.tree.map(np.testing.assert_array_equal, params, rounded)
    assert store.load_metadata(folder)["mae"] == 9.5


def test_float32_folder_is_exact(
    tmp_path: Path, model: Functional, tokenizer: Tokenizer
) -> None:
    params = model.init(1)
    store.save_model(tmp_path / "m", model.config, params, tokenizer, dtype="float32")
    jax.tree.map(
        np.testing.assert_array_equal, store.load_model(tmp_path / "m")[1], params
    )


def test_saving_again_replaces_and_leaves_nothing_else(
    folder: Path, model: Functional, tokenizer: Tokenizer
) -> None:
    store.save_model(folder, model.config, model.init(2), tokenizer, {"mae": 1})
    assert store.load_metadata(folder)["mae"] == 1
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", [store.CONFIG, store.TOKENIZER, store.WEIGHTS])
def test_a_cut_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{name} has changed"):
        store.load_model(folder)


@pytest.mark.parametrize(
    "name", [store.CONFIG, store.TOKENIZER, store.WEIGHTS, store.METADATA]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        store.load_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_foreign_metadata_is_refused(folder: Path, text: str) -> None:
    (folder / store.METADATA).write_text(text)
    with pytest.raises(UserError) as error:
        store.load_model(folder)
    assert "\n" not in str(error.value)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        store.load_model(tmp_path / "none")


def test_weights_of_another_configuration_are_refused(
    tmp_path: Path, model: Functional, tokenizer: Tokenizer
) -> None:
    other = presets.micro(tokenizer.vocab_size + 1)
    store.save_model(tmp_path / "m", other, model.init(0), tokenizer)
    with pytest.raises(UserError, match="weights must fit"):
        store.load_model(tmp_path / "m")


def test_weights_that_overflow_are_refused(
    tmp_path: Path, model: Functional, tokenizer: Tokenizer
) -> None:
    params = model.init(0)
    params["embed_tokens"]["embedding"] = params["embed_tokens"]["embedding"] + 1e6
    with pytest.raises(UserError, match="embed_tokens/embedding"):
        store.save_model(tmp_path / "m", model.config, params, tokenizer)
    assert not (tmp_path / "m").exists()
