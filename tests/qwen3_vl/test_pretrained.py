"""`load_vlm`: from a folder and a processor's arrays to logits and answers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qwen3_vl_cases import CHECKPOINT, IMAGE, SMALLEST, batch, prompts

import soler1_jax
from soler1_jax.common.errors import UserError
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt
from soler1_jax.reward import pretrained
from soler1_jax.sampling.methods import Method


@pytest.fixture(scope="module")
def model() -> soler1_jax.load_vlm:
    return soler1_jax.load_vlm(CHECKPOINT, dtype="float32")


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    return batch(prompts(SMALLEST)[2:])


def test_it_takes_what_a_processor_returns(model, given) -> None:
    logits = model.logits(**given, mm_token_type_ids=given["input_ids"] == IMAGE)
    assert logits.shape == (*given["input_ids"].shape, 97)
    assert logits.dtype == np.float32
    assert np.all(np.isfinite(logits))


def test_answers_stop_and_follow_the_seed(model, given) -> None:
    greedy = np.asarray(model.generate(**given, length=6).tokens)
    model.stop_ids = (int(greedy[0, 3]),)
    try:
        stopped = model.generate(**given, length=6)
    finally:
        model.stop_ids = ()
    first = int(np.argmax(greedy[0] == greedy[0, 3])) + 1
    assert stopped.lengths[0] == first
    np.testing.assert_array_equal(stopped.tokens[0, :first], greedy[0, :first])
    assert not np.any(stopped.tokens[0, first:]) and not stopped.logprobs[0, first]
    method = Method(temperature=1.0, top_p=0.9, top_k=50)
    drawn = [
        model.generate(**given, length=6, method=method, seed=seed).tokens
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(np.asarray(drawn[0]) != drawn[2])


def test_end_tokens_come_from_the_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))
    assert soler1_jax.load_vlm(folder).stop_ids == ()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    assert soler1_jax.load_vlm(folder).stop_ids == (7,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert soler1_jax.load_vlm(folder).stop_ids == (7, 9)


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, soler1_jax; "
        "print(len([m for m in sys.modules if m.startswith('soler1_jax.')]), "
        "'jax' in sys.modules, 'load_vlm' in dir(soler1_jax))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["0", "False", "True"]
    with pytest.raises(AttributeError, match="load_vml"):
        _ = soler1_jax.load_vml


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is not there"):
        soler1_jax.load_vlm(tmp_path / "nothing")


def test_float32_products_are_not_shortened(model, given) -> None:
    """GPUs and TPUs multiply float32 in fewer bits unless asked not to."""
    prompt, patches = make_prompt(model.config, **given)
    functions = Functional(model.config)
    text = pretrained._logits.lower(functions, model.params, prompt, patches).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)
