"""Two clips in one prompt, read at its end."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_readout import add_tokens, tiny_vlm

from soler1_jax.common.errors import UserError
from soler1_jax.data.qwen_images import image_patches
from soler1_jax.model.config import HeadsConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt
from soler1_jax.reward import robometer
from soler1_jax.reward.preference import prefer
from soler1_jax.reward.watching import WatchSettings
from soler1_jax.tokenizers.readout_wording import ReadoutWording

WORDS = ReadoutWording(
    readout="heads",
    question="{task}?",
    preference="{task}: {first}<|split_token|>or {second}?<|pref_token|>",
)


@pytest.fixture
def vlm(qwen_folder):
    add_tokens(qwen_folder)
    vlm = tiny_vlm(qwen_folder, HeadsConfig())
    vlm.__dict__["wording"] = WORDS
    return vlm


def test_both_clips_are_read_in_their_order(vlm):
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (n, 40, 70, 3), np.uint8) for n in (5, 2))
    said = prefer(vlm, "lift it", first, second, WatchSettings(frames=3))
    # The prompt by hand: three frames of the first clip, two of the second.
    picture = robometer.picture_config(vlm)
    rows, grids = image_patches([*first[[0, 2, 4]], *second], picture)
    pads = "<|image_pad|>" * (int(grids[0].prod()) // picture.merge_size**2)
    marker = robometer.MARKER
    slot = "<|vision_start|>" + pads + "<|vision_end|>" + marker
    slots = [f"Picture {n}: {slot}" for n in range(1, 6)]
    text = (
        "<|im_start|>user\nlift it: "
        + "".join(slots[:3])
        + "<|split_token|>or "
        + "".join(slots[3:])
        + "?<|pref_token|><|im_end|>\n"
    )
    ids = np.array([vlm.tokenizer.encode(text)])
    prompt, patches = make_prompt(
        vlm.config, ids, pixel_values=rows, image_grid_thw=grids
    )
    model = Functional(vlm.config).module(vlm.params)
    prefix = model.mix(prompt, model.encode_patches(patches))
    place = np.argmax(ids == vlm.tokenizer.token_id("<|pref_token|>"))
    hidden = model.hidden_at(prefix, np.array([[place]]))
    wanted = jax.nn.sigmoid(model.heads(hidden).preference[0, 0])
    np.testing.assert_allclose(said, wanted, atol=1e-5)
    other = prefer(vlm, "lift it", second, first, WatchSettings(frames=3))
    assert abs(other - said) > 1e-6


def test_what_cannot_be_compared_is_refused(vlm, qwen_folder):
    clip = np.zeros((2, 40, 70, 3), np.uint8)
    with pytest.raises(UserError, match="got none"):
        prefer(vlm, "lift", clip[:0], clip)
    with pytest.raises(UserError, match="got 2"):
        prefer(vlm, "lift <|pref_token|>", clip, clip)
    words = dataclasses.replace(WORDS, preference="{task} {first} {second}")
    vlm.__dict__["wording"] = words
    with pytest.raises(UserError, match="got 0"):
        prefer(vlm, "lift", clip, clip)
    without = tiny_vlm(qwen_folder, HeadsConfig(preference=False))
    with pytest.raises(UserError, match="none for it"):
        prefer(without, "lift", clip, clip)
