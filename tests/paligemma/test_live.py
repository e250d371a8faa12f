"""The same comparisons with transformers beside us, on folders it writes itself."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from paligemma_cases import (  # noqa: E402
    CASES,
    EOS,
    RELEASED,
    STEPS,
    batch,
    kl,
    prompts,
    released,
    stored_weights,
)
from paligemma_reference import (  # noqa: E402
    reference,
    reference_logits,
    reference_shapes,
    reference_tokens,
)
from safetensors.numpy import save_file  # noqa: E402
from transformers import (  # noqa: E402
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

import soler1_jax  # noqa: E402
from soler1_jax.checkpoints import hf_names  # noqa: E402
from soler1_jax.checkpoints.hf_config import from_hf, to_hf  # noqa: E402
from soler1_jax.checkpoints.hf_weights import load_hf, to_stored  # noqa: E402
from soler1_jax.checkpoints.safetensors_files import SINGLE  # noqa: E402
from soler1_jax.model import presets  # noqa: E402
from soler1_jax.model.functional import Functional  # noqa: E402
from soler1_jax.model.prompt import make_prompt  # noqa: E402

pytestmark = pytest.mark.parity
SEED = 7
"""Other weights and prompts than those of the stored values."""


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    """A case, transformers' model, and the folder it was saved to."""
    case = CASES[request.param]
    model = reference(case.hf(), stored_weights(case.config(), SEED))
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_pretrained(folder, max_shard_size="200KB")
    return case, model, folder


def test_float32(written) -> None:
    case, model, folder = written
    ours = soler1_jax.load_vlm(folder, dtype="float32")
    made = prompts(case, SEED)
    for given in (
        batch(made),
        batch(made, left=True),
        batch(made[:1]),
        batch(made[1:2]),
        batch(made[2:3]),
    ):
        there = given["attention_mask"] > 0
        theirs = reference_logits(model, given)[there]
        mine = np.asarray(ours.logits(**given))[there]
        assert kl(theirs, mine).max() <= 1e-8
        np.testing.assert_array_equal(mine.argmax(-1), theirs.argmax(-1))
        # The distributions are worth comparing.
        assert theirs.std() > 1


def test_bfloat16(written) -> None:
    """Against float32 on the same rounded weights, beside transformers' own bfloat16."""
    case, _, folder = written
    weights = stored_weights(case.config(), SEED)
    rounded = {
        name: torch.from_numpy(value).bfloat16().float().numpy()
        for name, value in weights.items()
    }
    exact = reference(case.hf(), rounded)
    given = batch(prompts(case, SEED))
    there = given["attention_mask"] > 0
    wanted = reference_logits(exact, given)[there]
    theirs = reference_logits(exact.to(torch.bfloat16), given)[there]
    mine = np.asarray(soler1_jax.load_vlm(folder).logits(**given))[there]
    assert kl(wanted, mine).max() <= 0.03
    assert kl(wanted, mine).mean() <= kl(wanted, theirs).mean()


def test_generation(written) -> None:
    case, model, folder = written
    given = batch(prompts(case, SEED), left=True)
    ours = soler1_jax.load_vlm(folder, dtype="float32")
    assert ours.stop_ids == (EOS,)
    ours.stop_ids = ()
    theirs = reference_tokens(model, given, STEPS)
    np.testing.assert_array_equal(ours.generate(**given, length=STEPS).tokens, theirs)


def test_a_suffix_is_causal(written) -> None:
    """One pass over prompt and completion, as in training."""
    case, model, folder = written
    ours = soler1_jax.load_vlm(folder, dtype="float32")
    given = batch(prompts(case, SEED), left=True)
    suffix = np.random.RandomState(SEED).randint(3, 90, (3, STEPS))
    longer = given | {
        "input_ids": np.concatenate([given["input_ids"], suffix], axis=1),
        "attention_mask": np.pad(
            given["attention_mask"], ((0, 0), (0, STEPS)), constant_values=1
        ),
    }
    theirs = reference_logits(model, longer, STEPS)[:, -STEPS - 1 : -1]
    prompt, patches = make_prompt(ours.config, **given)
    vlm = Functional(ours.config).module(ours.params)
    prefix = vlm.mix(prompt, vlm.encode_patches(patches))
    mine = vlm.logits(prefix, suffix, np.ones(suffix.shape, bool)).logits
    assert kl(theirs, mine).max() <= 1e-8


def test_transformers_reads_what_we_write(written, tmp_path: Path) -> None:
    case, model, folder = written
    config, params = load_hf(folder, "float32")
    (tmp_path / "config.json").write_text(json.dumps(to_hf(config)))
    save_file(dict(to_stored(config, params)), tmp_path / SINGLE, {"format": "pt"})
    again = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path).eval()
    given = batch(prompts(case, SEED)[2:3])
    np.testing.assert_array_equal(
        reference_logits(again, given), reference_logits(model, given)
    )


@pytest.mark.parametrize("name", RELEASED)
def test_presets(name: str) -> None:
    """Names, shapes and counts of the released sizes, without their memory."""
    theirs = reference_shapes(released(name))
    ours = {t.name: t.shape for t in hf_names.tensors(presets.preset(name))}
    assert ours == theirs
    data = PaliGemmaConfig(**released(name)).to_dict()
    assert from_hf(data, name=name) == presets.preset(name)
