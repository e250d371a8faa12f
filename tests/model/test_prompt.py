"""Positions and places of pictures among words, against a walk from token to token."""

import dataclasses

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets
from soler1_jax.model.config import MediaTokens, ModelConfig
from soler1_jax.model.prompt import make_prompt

IMAGE, VIDEO = 91, 92


def _config() -> ModelConfig:
    config = presets.preset("qwen3-vl-2b", 100)
    vision = dataclasses.replace(config.vision, patch_size=2, image_size=8)
    media = MediaTokens(image=IMAGE, video=VIDEO, start=93, end=94)
    return dataclasses.replace(config, vision=vision, media=media)


CONFIG = _config()


def _pixels(grid: list) -> np.ndarray:
    return np.zeros((int(np.prod(grid, axis=1).sum()), CONFIG.vision.patch_values))


def _walk(row: np.ndarray, mask: np.ndarray, frames: list) -> tuple[list, int]:
    """Positions of one prompt; `frames` are (kind, down, across) in reading order."""
    positions, now, at = [], 0, 0
    pending = list(frames)
    while at < len(row):
        if not mask[at]:
            positions.append((0, 0, 0))
            at += 1
        elif row[at] in (IMAGE, VIDEO):
            kind, down, across = pending.pop(0)
            assert kind == row[at]
            for y in range(down):
                positions += [(now, now + y, now + x) for x in range(across)]
            now, at = now + max(down, across), at + down * across
        else:
            positions.append((now, now, now))
            now, at = now + 1, at + 1
    return positions, now


ROWS = [
    [1, 2, 93, *[IMAGE] * 6, 94, 3, 93, *[VIDEO] * 4, 94, 4, 5, 93, *[VIDEO] * 4, 94],
    [6, 7, 8],
    [93, *[IMAGE] * 5, 94, 9, 93, *[IMAGE] * 4, 94],
]
FRAMES = [
    [(IMAGE, 3, 2), (VIDEO, 2, 2), (VIDEO, 2, 2)],
    [],
    [(IMAGE, 1, 5), (IMAGE, 2, 2)],
]
GRIDS = {
    "image_grid_thw": [[1, 6, 4], [1, 2, 10], [1, 4, 4]],
    "video_grid_thw": [[2, 4, 4]],
}
PIXELS = {
    "pixel_values": _pixels(GRIDS["image_grid_thw"]),
    "pixel_values_videos": _pixels(GRIDS["video_grid_thw"]),
}


def _padded(left: bool) -> tuple[np.ndarray, np.ndarray]:
    length = max(map(len, ROWS))
    ids = np.full((len(ROWS), length), 95)
    mask = np.zeros(ids.shape, int)
    for row, words in enumerate(ROWS):
        place = slice(length - len(words), None) if left else slice(0, len(words))
        ids[row, place], mask[row, place] = words, 1
    return ids, mask


@pytest.mark.parametrize("left", [False, True])
def test_positions_and_sources(left: bool) -> None:
    ids, mask = _padded(left)
    prompt, patches = make_prompt(CONFIG, ids, mask, **PIXELS, **GRIDS)
    places = patches.mask.shape[1] // 4
    length = ids.shape[1]
    for row, frames in enumerate(FRAMES):
        positions, following = _walk(ids[row], mask[row], frames)
        np.testing.assert_array_equal(prompt.positions[row, :, :length].T, positions)
        assert prompt.next_position[row] == following
        assert prompt.last[row] == np.flatnonzero(mask[row])[-1]
    # Images come first, then the frames of videos.
    wanted = {0: [0, 3, 4], 1: [], 2: [1, 2]}
    counts = [6, 5, 4, 4, 4]
    for row, frames in wanted.items():
        sources = [f * places + k for f in frames for k in range(counts[f])]
        given = prompt.source[row]
        np.testing.assert_array_equal(given[given >= 0], sources)
        np.testing.assert_array_equal(
            given[:length] >= 0, np.isin(ids[row], (IMAGE, VIDEO))
        )


def test_padding_to_buckets_is_on_the_right_and_masked() -> None:
    ids, mask = _padded(True)
    padded, _ = make_prompt(CONFIG, ids, mask, **PIXELS, **GRIDS)
    exact, _ = make_prompt(CONFIG, ids, mask, **PIXELS, **GRIDS, exact=True)
    length = ids.shape[1]
    assert exact.ids.shape[1] == length < padded.ids.shape[1]
    assert not padded.mask[:, length:].any()
    np.testing.assert_array_equal(padded.last, exact.last)


def test_models_without_placeholders_read_words() -> None:
    plain = dataclasses.replace(CONFIG, media=None)
    prompt, patches = make_prompt(plain, [[1, IMAGE, 2]])
    assert patches is None
    np.testing.assert_array_equal(prompt.positions[0, :, :3], [[0, 1, 2]] * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": [1, 2]}, "wrap one prompt in a list"),
        ({"input_ids": [[1.5]]}, "whole numbers"),
        ({"input_ids": [[100]]}, "tokens 0 to 99; got 100"),
        ({"attention_mask": [[1]]}, "shape of input_ids"),
        ({"attention_mask": [[0] * 6]}, "leave a token"),
        ({"image_grid_thw": None}, "pixel values of images"),
        ({"image_grid_thw": [[1, 4, 6]], "pixel_values": _pixels([[1, 4, 6]])}, "6; g"),
        ({"image_grid_thw": [[2, 2, 4]]}, "an image is one frame"),
        ({"input_ids": [[IMAGE, IMAGE, 1, IMAGE, IMAGE, 2]]}, "stand together"),
        ({"input_ids": [[IMAGE] * 3, [IMAGE, 1, 2]]}, "stand together"),
        ({"input_ids": [[VIDEO, 1]], "pixel_values": None}, "pixel values of images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    given = {
        "input_ids": [[1, IMAGE, IMAGE, IMAGE, IMAGE, 2]],
        "pixel_values": _pixels([[1, 4, 4]]),
        "image_grid_thw": [[1, 4, 4]],
    }
    make_prompt(CONFIG, **given)
    with pytest.raises(UserError, match=message) as caught:
        make_prompt(CONFIG, **given | change)
    assert "\n" not in str(caught.value)
