"""Our heads and likelihoods against torch's on the same weights and prompts."""

import jax
import numpy as np
import pytest
from qwen3_vl_cases import CASES, batch, our_params, prompts, stored_weights
from readout_cases import ANSWER, GOLDEN, HEADS, last_places, marked, with_heads

from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.heads import progress_shares
from soler1_jax.model.prompt import make_prompt


def our_readouts(config, params: Params, given: dict) -> dict[str, np.ndarray]:
    """What `readout_reference.reference_readouts` computes."""
    prompt, patches = make_prompt(config, **given)
    rows, places = marked(given)

    @jax.jit
    def read(params):
        model = Functional(config).module(params)
        prefix = model.mix(prompt, model.encode_patches(patches))
        every = np.broadcast_to(np.arange(prompt.ids.shape[1]), prompt.ids.shape)
        said = model.heads(model.hidden_at(prefix, every)[rows, places])
        last = model.hidden_at(prefix, last_places(given)[:, None])[:, 0]
        return said, jax.nn.log_softmax(model.next_logits(last))[:, ANSWER]

    said, likelihood = read(params)
    found = {name: value for name, value in said._asdict().items() if value is not None}
    return {"likelihood": likelihood} | {
        name: value if name == "progress" else value[:, None]
        for name, value in found.items()
    }


@pytest.mark.parametrize("name", HEADS)
def test_heads_and_likelihoods(name: str) -> None:
    config = with_heads(name)
    params = our_params(config, stored_weights(config))
    ours = our_readouts(config, params, batch(prompts(CASES[name])))
    with np.load(GOLDEN) as golden:
        theirs = {k: golden[k] for k in golden.files if k.startswith(f"{name}/")}
    assert {f"{name}/{kind}" for kind in ours} == set(theirs)
    for kind, value in ours.items():
        wanted = theirs[f"{name}/{kind}"]
        assert wanted.shape[0] >= 4 and wanted.std() > 0.1, "worth comparing"
        np.testing.assert_allclose(value, wanted, atol=2e-4, err_msg=kind)


def test_shares_are_the_expectation_over_even_values():
    logits = np.log(np.array([[1, 2, 1], [8, 1, 1]], np.float32))
    shares, values = progress_shares(logits)
    np.testing.assert_allclose(values, [0, 0.5, 1])
    np.testing.assert_allclose(shares @ values, [0.5, 0.15], atol=1e-6)
    shares, values = progress_shares(np.array([[0.0], [2.0]], np.float32))
    sigmoid = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(shares @ values, [0.5, sigmoid], atol=1e-6)
