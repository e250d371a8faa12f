"""Prompts on the device are those that a tokenizer makes of the text."""

import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.data import text
from soler1_jax.reward import prompt
from soler1_jax.tokenizers.sentencepiece import train_tokenizer

SENTENCES = ["lift the red cube", "open the drawer", "press the button before noon"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    return train_tokenizer([*SENTENCES, "close it before +020"] * 4, path, 160)


@pytest.mark.parametrize("progress", [0.0, -0.4, 7.0, 100.0, -100.0, 63.6, -5.2])
def test_previous_progress_is_written_as_the_text_has_it(tokenizer, progress):
    before = prompt.before_tokens(tokenizer)
    room = len(before) + prompt.NUMBER_LENGTH
    task = prompt.prepare(tokenizer, SENTENCES, 32, room)
    told = prompt.with_previous(
        task, before, jnp.full(len(SENTENCES), progress, jnp.float32)
    )
    wanted = [text.progress_prompt(s, round(progress)) for s in SENTENCES]
    ids, mask = tokenizer.encode_batch(wanted, 32)
    np.testing.assert_array_equal(told.ids, ids)
    np.testing.assert_array_equal(told.mask, mask)


def test_room_is_kept_free(tokenizer):
    length = max(len(tokenizer.encode(s)) for s in SENTENCES)
    assert not prompt.prepare(tokenizer, SENTENCES, length + 3, 3).mask[:, -3:].any()
    with pytest.raises(UserError, match="tokens"):
        prompt.prepare(tokenizer, SENTENCES, length + 3, 4)
