"""Names, shapes and forms of a checkpoint's tensors."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from qwen3_vl_cases import CASES, LISTINGS, RELEASED, listing, stored_weights

from soler1_jax.checkpoints import hf_names
from soler1_jax.common.errors import UserError
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
    assert hf_names.tensor_count(config) == expected["parameters"]


@pytest.mark.parametrize("name", ["grouped", "tied", "merge-3"])
def test_every_parameter_has_its_tensors(name: str) -> None:
    config = CASES[name].config()
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    sizes = {tuple(k.key for k in path): leaf.size for path, leaf in leaves}
    for tensor in hf_names.tensors(config):
        sizes[tensor.path] -= int(np.prod(tensor.shape))
    assert set(sizes.values()) == {0}
    assert ("lm_head", "kernel") in sizes or config.text.tie_embeddings


def test_scanned_and_unrolled_layers_have_the_same_tensors() -> None:
    config = CASES["grouped"].config()
    unrolled = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, scan_layers=False),
        text=dataclasses.replace(config.text, scan_layers=False),
    )
    scanned = {t.name: t for t in hf_names.tensors(config)}
    for tensor in hf_names.tensors(unrolled):
        other = scanned.pop(tensor.name)
        assert (tensor.shape, tensor.transform) == (other.shape, other.transform)
        assert tensor.layer is None
    assert not scanned


def test_forms_are_inverse_to_each_other() -> None:
    config = CASES["grouped"].config()
    for tensor in hf_names.tensors(config):
        stored = stored_weights(config)[tensor.name]
        ours = tensor.to_ours(stored)
        np.testing.assert_array_equal(tensor.to_stored(ours), stored)
        if tensor.transform is hf_names.Transform.PATCHES:
            # Rows run over channel, time, row, column.
            row = ((2 * 2 + 1) * 4 + 3) * 4 + 1
            np.testing.assert_array_equal(ours[row], stored[:, 2, 1, 3, 1])


def test_other_models_have_no_such_tensors() -> None:
    with pytest.raises(UserError, match="'nano' has a conv stem"):
        hf_names.tensors(presets.nano(300))
