"""Names, shapes and forms of a checkpoint's tensors."""

import json

import jax
import numpy as np
import pytest
from paligemma_cases import CASES, LISTINGS, RELEASED, listing, stored_weights

from soler1_jax.checkpoints import hf_names, hf_paligemma
from soler1_jax.model import presets
from soler1_jax.model.functional import Functional, parameter_count


@pytest.mark.parametrize("name", RELEASED)
def test_presets_have_the_released_tensors(name: str) -> None:
    """Every name and shape; the digest is of what transformers builds."""
    config = presets.preset(name)
    ours = {t.name: t.shape for t in hf_names.tensors(config)}
    expected = json.loads(LISTINGS.read_text())[name]
    assert listing(ours) == expected
    assert parameter_count(Functional(config).shapes()) == expected["parameters"]


def test_every_parameter_has_its_tensors() -> None:
    config = CASES["deep"].config()
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    sizes = {tuple(k.key for k in path): leaf.size for path, leaf in leaves}
    for tensor in hf_names.tensors(config):
        sizes[tensor.path] -= int(np.prod(tensor.shape))
    assert set(sizes.values()) == {0}


def test_forms_are_inverse_to_each_other() -> None:
    config = CASES["grouped"].config()
    stored = stored_weights(config)
    for tensor in hf_names.tensors(config):
        ours = tensor.to_ours(stored[tensor.name])
        np.testing.assert_array_equal(tensor.to_stored(ours), stored[tensor.name])
        if tensor.transform is hf_names.Transform.PATCHES:
            # Rows run over channel, row, column.
            row = (2 * 4 + 3) * 4 + 1
            np.testing.assert_array_equal(ours[row], stored[tensor.name][:, 2, 3, 1])


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_tower.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
    ],
)
def test_one_name_for_all_writers_names(name: str) -> None:
    released = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"
    assert hf_paligemma.canonical(name) == released


@pytest.mark.parametrize(
    ("name", "released"),
    [
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("lm_head.weight", hf_paligemma.HEAD),
        ("language_model.lm_head.weight", hf_paligemma.HEAD),
        (
            "model.multi_modal_projector.linear.bias",
            "multi_modal_projector.linear.bias",
        ),
    ],
)
def test_names_of_decoder_and_projector(name: str, released: str) -> None:
    assert hf_paligemma.canonical(name) == released
