"""Names of rewarders, and what is said to a wrong one."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_readout import add_tokens, tiny_vlm

from soler1_jax.checkpoints.conversion import Options
from soler1_jax.checkpoints.convert import convert
from soler1_jax.checkpoints.hf_config import to_hf
from soler1_jax.checkpoints.hf_weights import to_stored
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import HeadsConfig
from soler1_jax.reward.likelihood import LikelihoodSettings
from soler1_jax.reward.load import load_rewarder
from soler1_jax.reward.sole import SoleSettings
from soler1_jax.reward.vlm import VLMSettings
from soler1_jax.reward.watching import WatchSettings
from soler1_jax.tokenizers.wording import read_wording


@pytest.mark.parametrize("name", ["oracle", "random", "time"])
def test_baselines_by_name(name):
    assert load_rewarder(name).name == name


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(UserError, match="got 'oracel'.*did you mean 'oracle'"):
        load_rewarder("oracel")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_rewarder(str(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"readout": "median"},
        {"thought_budget": 0},
        {"caution": -1.0},
        {"readout": "greedy", "caution": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        VLMSettings(**wrong)


def _written(folder, heads=None):
    """Adds a tiny model's configuration and weights to its folder."""
    if heads is not None:
        add_tokens(folder)
    vlm = tiny_vlm(folder, heads)
    (folder / "config.json").write_text(json.dumps(to_hf(vlm.config)))
    stored = to_stored(vlm.config, vlm.params)
    tensors = {name: np.ascontiguousarray(value) for name, value in stored}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _kind(rewarder):
    return rewarder.score.__qualname__.split(".")[0], rewarder.score.__module__


def test_a_released_folder_is_asked_in_its_own_way(qwen_folder):
    folder = _written(qwen_folder)
    assert _kind(load_rewarder(folder))[1].endswith("sole")
    asked = load_rewarder(folder, released=LikelihoodSettings(view="wrist"))
    assert _kind(asked)[1].endswith("likelihood") and asked.views == ("wrist",)
    with pytest.raises(UserError, match="has none"):
        load_rewarder(folder, released=WatchSettings())
    with pytest.raises(UserError, match="--caution 0"):
        load_rewarder(folder, VLMSettings(caution=1.0))


def test_words_given_at_conversion_choose_the_likelihood(qwen_folder, tmp_path):
    path = tmp_path / "words.json"
    words = {"readout": "likelihood", "question": "{task}? It is", "answer": " so"}
    path.write_text(json.dumps(words))
    options = Options(wording=read_wording(path))
    convert(_written(qwen_folder), tmp_path / "made", options)
    rewarder = load_rewarder(tmp_path / "made")
    assert _kind(rewarder)[1].endswith("likelihood")
    asked = rewarder.prepare(["lift it"])
    tail = asked.around.tail[0, : asked.around.tail_mask[0].sum() + 1]
    tokens = tiny_vlm(qwen_folder).tokenizer
    assert tokens.decode(tail) == "lift it? It is so"
    assert tail[-1] == asked.answer[0]
    with pytest.raises(UserError, match="likelihood"):
        load_rewarder(tmp_path / "made", released=SoleSettings())


def test_a_folder_with_heads_is_read_by_them(qwen_folder, tmp_path):
    convert(_written(qwen_folder, HeadsConfig()), tmp_path / "made")
    for folder in (qwen_folder, tmp_path / "made"):
        assert _kind(load_rewarder(folder))[1].endswith("robometer")
        for settings, message in (
            (SoleSettings(), "writes no text"),
            (LikelihoodSettings(), "heads in their place"),
        ):
            with pytest.raises(UserError, match=message):
                load_rewarder(folder, released=settings)
