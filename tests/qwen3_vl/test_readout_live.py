"""The same comparison with torch beside us, on folders of other weights."""

import json

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

from qwen3_vl_cases import CASES, batch, prompts, stored_weights  # noqa: E402
from readout_cases import HEADS, with_heads  # noqa: E402
from readout_reference import reference_model, reference_readouts  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from test_readout_golden import our_readouts  # noqa: E402

from soler1_jax.checkpoints.convert import convert  # noqa: E402
from soler1_jax.reward.pretrained import load_vlm  # noqa: E402

pytestmark = pytest.mark.parity
SEED = 7


@pytest.mark.parametrize("name", HEADS)
def test_a_folder_that_torch_wrote(name, tmp_path):
    case = CASES[name]
    data = case.hf() | {"architectures": ["RBM"]}
    weights = stored_weights(with_heads(name), SEED)
    model = reference_model(data, HEADS[name], weights)
    source = tmp_path / "hf"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(data))
    save_file(model.state_dict(), source / "model.safetensors")
    convert(source, tmp_path / "converted")
    given = batch(prompts(case, SEED), left=True)
    theirs = reference_readouts(model, given)
    for folder in (source, tmp_path / "converted"):
        vlm = load_vlm(folder, "float32")
        ours = our_readouts(vlm.config, vlm.params, given)
        assert set(ours) == set(theirs)
        for kind, value in theirs.items():
            np.testing.assert_allclose(ours[kind], value, atol=2e-4, err_msg=kind)
