"""PaliGemma's whole input against the processor of transformers, live."""

import gemma_tiny
import numpy as np
import pytest

from soler1_jax.data.paligemma_processor import (
    PaliGemmaProcessor,
    SquareConfig,
)
from soler1_jax.tokenizers.gemma import GemmaTokenizer

pytestmark = pytest.mark.parity
# No picture shrinks more in height than in width: there Pillow 13 filters in another
# order than its earlier versions and our resize.
SIZE, TOKENS = 28, 16


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """transformers' processor and ours, on one tokenizer."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.siglip import image_processing_pil_siglip as pil

    folder = gemma_tiny.write_folder(tmp_path_factory.mktemp("gemma"), form="json")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = pil.SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    pictures.image_seq_length = TOKENS
    theirs = transformers.PaliGemmaProcessor(pictures, tokenizer)
    image = SquareConfig(size=SIZE, tokens=TOKENS, arithmetic="pillow")
    return theirs, PaliGemmaProcessor(tokenizer=GemmaTokenizer(folder), image=image)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("Lift the red cube.", [(40, 64)]),
        ("answer en what is it?", [(28, 28)]),
        ("<image> detect cube ; gripper", [(9, 60)]),
        ("<image><image> which is nearer?", [(40, 64), (33, 70)]),
    ],
)
def test_prompts_and_pictures(pair, text, sizes):
    theirs, ours = pair
    draw = np.random.RandomState(1)
    pictures = [draw.randint(0, 256, (*s, 3)).astype(np.uint8) for s in sizes]
    wanted = theirs(
        images=[pictures],
        text=[text],
        return_tensors="np",
        input_data_format="channels_last",
    )
    found = ours(text, pictures)
    assert found.ids.tolist() == wanted["input_ids"][0].tolist()
    assert not np.any(wanted["token_type_ids"])
    pixels = np.asarray(wanted["pixel_values"]).reshape(found.pixel_values.shape)
    np.testing.assert_allclose(found.pixel_values, pixels, atol=1e-6)


def test_answers_to_learn_from(pair):
    theirs, ours = pair
    picture = np.zeros((28, 28, 3), np.uint8)
    both = theirs(
        images=[picture],
        text=["<image>Lift the cube."],
        suffix=["37 %"],
        return_tensors="np",
        input_data_format="channels_last",
    )
    suffix = both["input_ids"][0][both["token_type_ids"][0] == 1]
    np.testing.assert_array_equal(ours.completion("37 %"), suffix)
