"""A new model learns which words are nouns; a stored one keeps what it knows."""

import dataclasses

import pytest

from soler1_jax.model.presets import preset
from soler1_jax.tokenizers.sentencepiece import UNK, train_tokenizer
from soler1_jax.training import materials


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    return train_tokenizer(["lift the red cube near the plate"] * 8, path, 120)


def test_nouns_are_the_words_that_name_what_tasks_are_about(episodes, tokenizer):
    start = materials.Start("micro")
    config = materials.model_config(start, tokenizer, episodes)
    assert config.grounding.noun_ids == tuple(sorted(set(tokenizer.encode("red cube"))))
    assert config.grounding.unknown_id == UNK
    verb = set(tokenizer.encode("lift the"))
    # The plate and the drawer are named too, but no task here is about them.
    assert verb.isdisjoint(config.grounding.noun_ids)


def test_a_stored_model_keeps_its_nouns(episodes, tokenizer):
    config = preset("micro", tokenizer.vocab_size)
    grounding = dataclasses.replace(config.grounding, noun_ids=(5, 7))
    start = materials.Start(
        "somewhere", config=dataclasses.replace(config, grounding=grounding)
    )
    kept = materials.model_config(start, tokenizer, episodes)
    assert kept.grounding.noun_ids == (5, 7)


def test_the_dtype_can_be_chosen(episodes, tokenizer):
    start = materials.Start("micro")
    config = materials.model_config(start, tokenizer, episodes, "bfloat16")
    assert config.dtype == "bfloat16"
