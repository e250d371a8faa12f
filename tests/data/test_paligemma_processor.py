"""Prompts and pictures of PaliGemma: layout, sizes, contradictions between files."""

import json
from pathlib import Path

import gemma_tiny
import jax
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import paligemma_processor as paligemma
from soler1_jax.data.paligemma_processor import (
    SquareConfig,
    load_paligemma_processor,
    square_pixels,
)
from soler1_jax.data.resize import resize

SIZE, PATCH = 28, 7
TOKENS = (SIZE // PATCH) ** 2
PICTURES = {
    "image_seq_length": TOKENS,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "rescale_factor": 1 / 255,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
}


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = gemma_tiny.write_folder(tmp_path / "checkpoint")
    _write(made / "preprocessor_config.json", PICTURES)
    vision = {"image_size": SIZE, "patch_size": PATCH}
    image = json.loads((made / "added_tokens.json").read_text())["<image>"]
    _write(made / "config.json", {"image_token_index": image, "vision_config": vision})
    return made


def _pictures(*shapes: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.RandomState(0)
    return [draw.randint(0, 256, (*s, 3)).astype(np.uint8) for s in shapes]


def test_a_prompt_is_pictures_beginning_sentence_line_end(folder):
    processor = load_paligemma_processor(folder)
    pictures = _pictures((40, 64), (28, 28))
    tokenizer = processor.tokenizer
    found = processor("lift the cube", pictures)
    assert found.ids.dtype == np.int32
    words = tokenizer.encode("lift the cube\n")
    beginning = [tokenizer.image_id] * (2 * TOKENS) + [tokenizer.bos_id]
    assert found.ids.tolist() == beginning + words
    assert found.pixel_values.shape == (2, 3, SIZE, SIZE)
    # Marks say where pictures go; the beginning stands behind the last.
    marked = processor("<image>first<image>lift the cube", pictures)
    assert marked.text == (
        "<image>" * TOKENS + "first" + "<image>" * TOKENS + "<bos>lift the cube\n"
    )
    alone = processor("lift the cube")
    assert alone.ids.tolist() == [tokenizer.bos_id, *words]
    assert alone.pixel_values.shape == (0, 3, SIZE, SIZE)
    with pytest.raises(UserError, match="got 1 for 2"):
        processor("<image> a cube", pictures)
    ending = processor.completion("red")
    assert ending.tolist() == [*tokenizer.encode("red"), tokenizer.eos_id]


def test_pictures_become_squares_on_host_and_device():
    config = SquareConfig(size=SIZE, tokens=TOKENS)
    for shape in ((40, 64), (28, 28), (9, 100)):
        (picture,) = _pictures(shape)
        host = square_pixels([picture], config)
        small = resize(picture, SIZE, SIZE)
        expected = (small.astype(np.float64) / 127.5 - 1).transpose(2, 0, 1)
        np.testing.assert_allclose(host[0], expected, atol=1e-6)
        device = jax.jit(lambda x: paligemma.square_pixels_on_device(x, config))
        np.testing.assert_allclose(device(picture), host[0], atol=1e-6)
        frames = paligemma.square_frames_on_device(picture, config)
        np.testing.assert_array_equal(frames, small)
    with pytest.raises(UserError, match="uint8 RGB"):
        square_pixels([np.zeros((4, 4), np.uint8)], config)


def test_newer_layout_says_the_same(folder):
    older = load_paligemma_processor(folder).image
    (folder / "preprocessor_config.json").unlink()
    _write(folder / "processor_config.json", {"image_processor": PICTURES})
    assert load_paligemma_processor(folder).image == older


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("preprocessor_config.json", {"do_resize": False}, "do_resize False"),
        ("preprocessor_config.json", {"resample": 2}, "resample 2"),
        ("preprocessor_config.json", {"image_std": [1, 1, 1]}, "image_std"),
        ("preprocessor_config.json", {"size": {"height": 3}}, "one size"),
        ("preprocessor_config.json", {"image_seq_length": None}, "image_seq_length"),
        ("preprocessor_config.json", {"image_seq_length": 15}, "square number"),
        (
            "preprocessor_config.json",
            {"image_seq_length": 25},
            "image_seq_length is 16",
        ),
        ("config.json", {"image_token_index": 5}, "image_token_index is 5"),
        ("config.json", {"vision_config": {"image_size": 56}}, "image_size is 56"),
    ],
)
def test_contradictions_are_one_line(folder, name, change, message):
    content = json.loads((folder / name).read_text())
    _write(folder / name, content | change)
    with pytest.raises(UserError, match=message) as caught:
        load_paligemma_processor(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_pictures_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").unlink()
    _write(folder / "tokenizer_config.json", {})
    with pytest.raises(UserError, match="<image> as an added token"):
        load_paligemma_processor(folder)
