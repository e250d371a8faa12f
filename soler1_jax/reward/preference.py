"""Which of two clips shows more of a task done: Robometer's preference head; on the host.

Source: Robometer (arXiv 2603.02115) and its code release: both clips stand in one prompt,
and the head reads the marker at its end. T frames.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import jax
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.patches import Patches
from soler1_jax.model.prompt import Prompt, make_prompt
from soler1_jax.reward.pretrained import PretrainedVLM
from soler1_jax.reward.robometer import (
    DEFAULT_WORDING,
    PREFERENCE,
    framed,
    heads_wording,
    picture_config,
)
from soler1_jax.reward.watching import WatchSettings, fit


def prefer(
    vlm: PretrainedVLM,
    task: str,
    first: np.ndarray,
    second: np.ndarray,
    settings: WatchSettings | None = None,
) -> float:
    """Compares two clips of one task.

    Args:
      vlm: of `load_vlm`, a model with a preference head.
      task: the sentence.
      first, second: uint8 [T, H, W, 3], of any lengths and sizes.
      settings: `frames` of each clip are shown, evenly spread.

    Returns:
      The probability that the first clip is the better one.

    Raises:
      UserError: the model has no such head, or its words do not end at its marker.
    """
    settings = settings or WatchSettings()
    name = str(vlm.folder)
    wording = heads_wording(vlm, name)
    if not vlm.config.heads.preference:
        raise UserError(
            f"a preference is read by a head; {name} has none for it; choose another "
            "checkpoint"
        )
    clips = {"first": _spread(first, settings), "second": _spread(second, settings)}
    content, images = [], []
    template = wording.preference or DEFAULT_WORDING.preference
    for part in re.split(r"\{(first|second)\}", template.replace("{task}", task)):
        if part in clips:
            content += framed(len(clips[part]))
            images += list(clips[part])
        elif part:
            content.append({"type": "text", "text": part})
    processor = dataclasses.replace(vlm.processor, image=picture_config(vlm))
    inputs = processor(
        [{"role": "user", "content": content}],
        images,
        add_generation_prompt=False,
        add_vision_id=True,
    )
    places = np.flatnonzero(inputs.ids == vlm.tokenizer.token_id(PREFERENCE))
    if len(places) != 1:
        raise UserError(
            f"a preference is read at the one {PREFERENCE} of its prompt; got "
            f"{len(places)}; change the words of {name}, or the task"
        )
    prompt, patches = make_prompt(
        vlm.config,
        inputs.ids[None],
        pixel_values=inputs.image_patches,
        image_grid_thw=inputs.image_grids,
    )
    logit = _logit(Functional(vlm.config), vlm.params, prompt, patches, places[None])
    return float(jax.nn.sigmoid(logit))


def _spread(frames: np.ndarray, settings: WatchSettings) -> Sequence[np.ndarray]:
    """The frames of a clip that are shown."""
    if not len(frames):
        raise UserError("a clip has frames; got none; give one or more")
    count = min(settings.frames, len(frames))
    places = np.rint(np.linspace(0, len(frames) - 1, count)).astype(int)
    return fit(np.asarray(frames)[places], settings.short_side)


@functools.partial(jax.jit, static_argnums=0)
def _logit(
    model: Functional,
    params: Params,
    prompt: Prompt,
    patches: Patches,
    places: np.ndarray,
) -> jax.Array:
    vlm = model.module(params)
    prefix = vlm.mix(prompt, vlm.encode_patches(patches))
    return vlm.heads(vlm.hidden_at(prefix, places)).preference[0, 0]
