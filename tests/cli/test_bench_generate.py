"""`soler1 bench generate`: what it counts, against transformers and XLA's own counts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax import cli
from soler1_jax.cli import bench, bench_ceilings, bench_generate
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import MediaTokens, ModelConfig, TextConfig, VisionConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.prompt import make_prompt

TINY = ModelConfig(
    name="tiny",
    vision=VisionConfig(
        image_size=32,
        patch_size=8,
        temporal_patch_size=2,
        hidden_size=32,
        intermediate_size=64,
        depth=2,
        num_heads=2,
        position_grid=4,
        deepstack_indexes=(0,),
        scan_layers=True,
    ),
    text=TextConfig(
        vocab_size=101,
        hidden_size=48,
        intermediate_size=96,
        depth=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rope_theta=5e6,
        mrope_section=(4, 2, 2),
        scan_layers=True,
        remat=True,
    ),
    media=MediaTokens(image=97, video=98, start=95, end=96),
)
SIZES = {"batch": 2, "prompt_tokens": 24, "pictures": 2, "picture_side": 32}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench_generate.PRESETS, "tiny", TINY)


def _args(out, **settings):
    given = SIZES | {"preset": "tiny", "new_tokens": 6, "repeats": 2} | settings
    return bench.Generate(out=out, **given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "batch must be positive"),
        (["--repeats", "0"], "repeats must be positive"),
        (["--new-tokens", "1"], "give 2 or more"),
        (["--preset", "smal"], "did you mean 'small'"),
        (["--picture-side", "500"], "choose 480"),
        (["--prompt-tokens", "700"], "give 778 or more"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "generate", "--no-peer", *words, "--out", str(out)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


def test_the_least_prompt_that_is_asked_for_works():
    config = bench_generate.PRESETS["small"]
    given = bench_generate.make_inputs(config, 2, 778, 3, 512, 0)
    assert given["input_ids"].shape == (2, 778)
    prompt, _ = make_prompt(config, **given)
    assert np.sum(prompt.source >= 0) == 2 * 3 * 256


def test_missing_transformers_is_said(monkeypatch):
    monkeypatch.setattr(bench_generate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs torch.*--no-peer"):
        bench_generate.require_peer()


def test_without_a_peer_only_we_are_timed(tmp_path, tiny, capsys):
    bench.run(_args(tmp_path, peer=False))
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["side"] == "soler1_jax" and "same_tokens" not in row
    assert row["prefill_tokens_per_second"] > 0 < row["decode_tokens_per_second"]
    assert "transformers was not timed" in capsys.readouterr().out


@pytest.mark.parity
def test_both_sides_write_the_same(tmp_path, tiny):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    bench.run(_args(tmp_path))
    theirs, ours = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert (theirs["side"], ours["side"]) == ("transformers", "soler1_jax")
    assert ours["same_tokens"] == 1 and ours["distinct_tokens"] > 2
    assert ours["parameters"] == theirs["parameters"]
    for part in ("prefill", "decode"):
        assert ours[f"{part}_times_transformers"] > 0


def test_rates_and_ratios_are_of_the_same_rounds():
    def once(prefill: float, decode: float, token: int) -> bench_generate.Timing:
        tokens = np.full((2, 5), token, np.int32)
        return bench_generate.Timing(prefill, decode, prefill / 2, decode, tokens)

    # The second round falls into a busy moment that hits both sides.
    theirs = iter([once(9, 9, 1), once(2, 4, 1), once(20, 40, 1), once(3, 4, 1)])
    ours = iter([once(5, 5, 1), once(1, 1, 1), once(10, 10, 1), once(1, 1, 1)])
    calls = {"transformers": lambda: next(theirs), "soler1_jax": lambda: next(ours)}
    rows = bench_generate._rows(calls, 3, (2, 10, 5))
    row = rows["soler1_jax"]
    assert row["prefill_seconds"] == 1 and row["prefill_seconds_range"] == [1, 10]
    assert row["prefill_tokens_per_second"] == 20
    assert row["decode_tokens_per_second"] == 8
    assert row["prefill_times_transformers"] == 2
    assert row["decode_times_range"] == [4, 4]
    assert row["first_call_seconds"] == 10 and row["same_tokens"] == 1
    assert rows["transformers"]["decode_tokens_per_second"] == 2


@pytest.mark.parametrize("tie", [False, True])
def test_flop_are_those_that_xla_counts(tie):
    # Unrolled, since XLA counts the body of a loop once, and wide, since it also counts
    # what is no matrix product.
    text = dataclasses.replace(
        TINY.text,
        scan_layers=False,
        tie_embeddings=tie,
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
        mrope_section=(12, 10, 10),
        vocab_size=1001,
    )
    vision = dataclasses.replace(
        TINY.vision, scan_layers=False, hidden_size=128, intermediate_size=256
    )
    config = dataclasses.replace(TINY, text=text, vision=vision)
    inputs = bench_generate.make_inputs(config, 3, 64, 2, 64, 0)
    prompt, patches = make_prompt(config, **inputs, exact=True)
    model = Functional(config)

    def prefill(params, prompt, patches):
        vlm = model.module(params)
        return vlm.prefill(vlm.mix(prompt, vlm.encode_patches(patches)), 0)

    lowered = jax.jit(prefill).lower(model.shapes(), prompt, patches)
    counted = lowered.cost_analysis()["flops"]
    frames = inputs["image_grid_thw"].prod(axis=1)
    ours = bench_ceilings.prefill_flop(config, 3, 64, frames)
    assert ours == pytest.approx(counted, rel=0.04)
    assert ours < counted


@pytest.mark.parametrize("tie", [False, True])
def test_bytes_of_a_step_are_those_of_its_arrays(tie):
    text = dataclasses.replace(TINY.text, tie_embeddings=tie)
    config = dataclasses.replace(TINY, text=text, dtype="bfloat16")
    model = Functional(config)
    shapes = model.shapes()
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), shapes)
    inputs = bench_generate.make_inputs(config, 2, 24, 2, 32, 0)
    prompt, patches = make_prompt(config, **inputs, exact=True)

    def caches(params, prompt, patches):
        vlm = model.module(params)
        prefix = vlm.mix(prompt, vlm.encode_patches(patches))
        return vlm.prefill(prefix, 0)[0].layers

    cache = jax.tree.leaves(jax.eval_shape(caches, params, prompt, patches))
    assert all(a.dtype == jnp.bfloat16 for a in cache)
    expected = 2 * sum(a.size for a in cache)
    for name, branch in shapes.items():
        read = name != "visual" and (tie or name != "embed_tokens")
        expected += 2 * read * sum(a.size for a in jax.tree.leaves(branch))
    assert bench_ceilings.decode_bytes(config, params, 2, 24) == expected


def test_shares_are_of_measured_ceilings(monkeypatch):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    params = Functional(config).init(0)
    inputs = bench_generate.make_inputs(config, 2, 24, 2, 32, 0)
    frames = inputs["image_grid_thw"].prod(axis=1)
    row = {"batch": 2, "prompt_tokens": 24, "new_tokens": 3}
    row |= {"prefill_seconds": 0.5, "decode_seconds": 0.25}
    flop = bench_ceilings.prefill_flop(config, 2, 24, frames)
    read = [bench_ceilings.decode_bytes(config, params, 2, n) for n in (25, 26)]
    monkeypatch.setattr(bench_ceilings, "matmul_ceiling", lambda dtype: 4 * flop)
    monkeypatch.setattr(bench_ceilings, "copy_ceiling", lambda: 8 * sum(read))
    found = bench_ceilings.shares(config, params, inputs, row)
    assert found["prefill_mfu"] == 0.5
    assert found["decode_bandwidth_share"] == 0.5


def test_ceilings_count_what_a_call_does(monkeypatch):
    monkeypatch.setattr(bench_ceilings, "_best", lambda *_: 0.5)
    assert bench_ceilings.matmul_ceiling("float32", 4) == 2 * 4**3 / 0.5
    assert bench_ceilings.copy_ceiling(1024) == 2 * 1024 / 0.5
