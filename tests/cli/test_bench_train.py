"""`soler1 bench train`: what it counts, against transformers and XLA's own counts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_cases import config as tiny_config

from soler1_jax import cli
from soler1_jax.cli import bench, bench_ceilings, bench_generate, bench_train
from soler1_jax.model.flop import training_flop
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt
from soler1_jax.training import packed

SIZES = {
    "rows": 2,
    "records": 2,
    "record_tokens": (24,),
    "answer_tokens": 6,
    "pictures": (2,),
    "picture_side": (16,),
}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench_generate.PRESETS, "tiny", tiny_config())


def _args(out, **settings):
    return bench.Train(out=out, **SIZES | {"preset": "tiny", "repeats": 2} | settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "0"], "rows must be positive"),
        (["--preset", "smal"], "did you mean 'small'"),
        (["--answer-tokens", "101"], "got --answer-tokens 101 of 101"),
        (["--record-tokens", "100"], "give 445 or more"),
        (["--record-tokens", "512", "600"], "got 2 for 10"),
        (["--pictures", "1", "2"], "--pictures is one number for all"),
        (["--picture-side", "256", "256"], "--picture-side is one number for all"),
        (["--records", "2", "--record-tokens", "512", "-1"], "must be positive"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "train", "--no-peer", *words, "--out", str(out)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_without_a_peer_only_we_are_timed(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(bench_ceilings, "matmul_ceiling", lambda *_, **__: 1e9)
    bench.run(_args(tmp_path, peer=False, remat=True))
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["side"] == "soler1_jax" and "times_transformers" not in row
    assert 0 < row["last_loss"] < row["first_loss"]
    assert row["tokens_per_second"] == pytest.approx(96 / row["step_seconds"], rel=0.01)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("remat", "records"),
    [
        (False, {}),
        (True, {}),
        (False, {"record_tokens": (19, 31)}),
        (
            False,
            {"record_tokens": (19, 31), "pictures": (2, 1), "picture_side": (8, 16)},
        ),
    ],
)
def test_both_sides_learn_the_same(tmp_path, tiny, remat, records, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr(
        bench_train,
        "LEARNING",
        dataclasses.replace(bench_train.LEARNING, learning_rate=1e-3),
    )
    bench.run(_args(tmp_path, remat=remat, **records))
    theirs, ours = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert (theirs["side"], ours["side"]) == ("transformers", "soler1_jax")
    for name in ("first_loss", "last_loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=2e-3)
    assert ours["first_loss"] - ours["last_loss"] > 0.01
    assert ours["times_transformers"] > 0


def test_all_that_counts_is_in_the_rows():
    config = tiny_config()
    lengths = (20, 28, 20, 28)
    drawn = [
        bench_generate.make_inputs(config, 1, length, 2, 16, seed)
        for seed, length in enumerate(lengths)
    ]
    rows = bench_train.packed_rows(config, drawn, 6, 2)
    assert rows.ids.shape == (2, 48) and rows.segments.min() == 1
    ids = np.concatenate([record["input_ids"][0] for record in drawn])
    np.testing.assert_array_equal(rows.ids.reshape(-1), ids)
    assert packed.targets(rows)[1].sum() == 4 * 6
    pixels = np.concatenate([record["pixel_values"] for record in drawn])
    np.testing.assert_array_equal(rows.patches.values.reshape(pixels.shape), pixels)


def test_the_other_side_has_padding_behind_shorter_records():
    drawn = [
        bench_generate.make_inputs(tiny_config(), 1, length, 2, 16, length)
        for length in (20, 28)
    ]
    laid = bench_train.padded(drawn)
    assert laid["input_ids"].shape == laid["attention_mask"].shape == (2, 28)
    assert laid["attention_mask"].sum(axis=1).tolist() == [20, 28]
    np.testing.assert_array_equal(laid["input_ids"][0, :20], drawn[0]["input_ids"][0])
    assert len(laid["image_grid_thw"]) == 4


def test_flop_are_those_that_xla_counts():
    # Unrolled and wide, see tests/cli/test_bench_generate.py.
    config = tiny_config()
    text = dataclasses.replace(
        config.text,
        scan_layers=False,
        remat=False,
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
        mrope_section=(12, 10, 10),
        vocab_size=1001,
    )
    vision = dataclasses.replace(
        config.vision,
        scan_layers=False,
        remat=False,
        hidden_size=128,
        intermediate_size=256,
        image_size=64,
    )
    config = dataclasses.replace(config, text=text, vision=vision)
    inputs = bench_generate.make_inputs(config, 3, 64, 2, 32, 0)
    prompt, patches = make_prompt(config, **inputs, exact=True)
    model = Functional(config)

    def loss(params):
        vlm = model.module(params)
        prefix = vlm.mix(prompt, vlm.encode_patches(patches))
        return jnp.sum(jax.nn.logsumexp(vlm.prompt_logits(prefix), axis=-1))

    lowered = jax.jit(jax.grad(loss)).lower(model.shapes())
    counted = lowered.cost_analysis()["flops"]
    frames = inputs["image_grid_thw"].prod(axis=1)
    ours = training_flop(config, 3, 64, frames)
    assert ours == pytest.approx(counted, rel=0.08)
