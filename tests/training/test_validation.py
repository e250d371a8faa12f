"""Examinations: what is asked, how it is counted, which model is kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.checkpoints.store import load_metadata, load_model
from soler1_jax.common.run import read_json
from soler1_jax.data import text
from soler1_jax.data.batches import BatchConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.tokenizers.sentencepiece import Tokenizer
from soler1_jax.training import curriculum, keeper, supervise, validation


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return Tokenizer(data_folder / "tokenizer.model")


@pytest.fixture(scope="module")
def exam(episodes, tokenizer):
    words = supervise.Words(tokenizer)
    config = BatchConfig(
        patch=4, wrist_patch=8, **curriculum.lengths(episodes, words, 0.0)
    )
    return validation.make_exam(episodes[:5], words, config, size=2)


def _examine(exam, tokenizer, progress, thought):
    """Examines a model that answers `progress` [E,Q] and thinks `thought`."""
    count, queries = exam.progress.shape
    ids = tokenizer.encode(text.progress_completion(thought, 0))
    padded = np.concatenate([progress, progress[: -count % 2]])
    rows = iter(padded.reshape(-1, 2 * queries))

    def answer(params, batch):
        values = jnp.asarray(next(rows))
        return {
            "tokens": jnp.tile(jnp.array(ids), (2 * queries, 1)),
            **dict.fromkeys(("progress", "expected", "glance", "state"), values),
        }

    return validation.examine(answer, None, exam, tokenizer.decode)


def test_an_exam_asks_once_for_every_frame_after_the_first(exam, episodes):
    assert exam.progress.shape == (5, 3) and len(exam.batches) == 3
    assert sorted(exam.progress[0]) == [20, 40, 60]
    assert all(set(c) == {"motion", "trend"} for row in exam.claims for c in row)


def test_the_truth_scores_best_and_its_opposite_worst(exam, tokenizer):
    right = _examine(exam, tokenizer, exam.progress, "")
    assert right["mae"] == 0 and right["pearson"] == pytest.approx(1)
    wrong = _examine(exam, tokenizer, -exam.progress, "")
    assert wrong["pearson_glance"] == pytest.approx(-1) and wrong["mae_state"] == 80
    flat = _examine(exam, tokenizer, np.full((5, 3), 7.0), "")
    assert flat["pearson"] == pytest.approx(0), "a constant follows nothing"


def test_claims_count_what_is_true_of_what_could_be_said(exam, tokenizer):
    # of two claims a query; odd frames rise and even ones fall
    stated = _examine(exam, tokenizer, exam.progress, "progress up")["claims"]
    share = np.mean([c["trend"] == "up" for row in exam.claims for c in row])
    assert stated == pytest.approx(share / 2)
    assert _examine(exam, tokenizer, exam.progress, "")["claims"] == 0


def test_the_best_model_is_kept(tokenizer, tmp_path):
    functions = Functional(preset("micro", tokenizer.vocab_size))
    params = functions.shapes()

    def weights(value):
        return {k: _fill(v, value) for k, v in params.items()}

    keep = keeper.Keeper(tmp_path, functions, tokenizer, {"command": "test"})
    assert keep.consider(weights(0.25), 0.5, {"step": 1})
    assert not keep.consider(weights(0.5), 0.4, {"step": 2})
    assert not keep.consider(weights(0.5), float("nan"), {"step": 3})
    assert keep.consider(weights(0.75), 0.6, {"step": 4})
    assert read_json(tmp_path / "best.json") == {"merit": 0.6, "step": 4}
    metadata = load_metadata(tmp_path / "model")
    assert metadata["command"] == "test" and metadata["step"] == 4
    _, stored, _ = load_model(tmp_path / "model")
    assert float(stored["embed_tokens"]["embedding"][0, 0]) == 0.75


def _fill(tree, value):
    if isinstance(tree, dict):
        return {k: _fill(v, value) for k, v in tree.items()}
    return np.full(tree.shape, value, np.float32)


def test_a_run_without_exams_keeps_its_last_model(tokenizer, tmp_path):
    functions = Functional(preset("micro", tokenizer.vocab_size))
    keep = keeper.Keeper(tmp_path, functions, tokenizer, {})
    result = keep.finish(_fill(functions.shapes(), 1.0), steps=7, seconds=2.5)
    assert result["steps"] == 7 and result["best"]["step"] == 7
    assert (tmp_path / "model" / "weights.npz").exists()
