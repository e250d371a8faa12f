"""Training steps a second: this project's packed rows beside torch and transformers.

Both sides take the same float32 weights of Qwen3-VL's shape and the same records of
pictures, words and an answer, and do the same: cross-entropy of the answer, gradients of
all weights, clipping, AdamW. Ours puts several records into a row; the other side takes
them as a batch, filled up to the longest; of equal length, neither has padding. The two
take turns, so that a busy moment of the machine hits both. Tokens a second count no
padding.

Letters: B rows, M records of a row, N = B * M records, T tokens of the longest, R rounds.
Seconds are medians over rounds, without compilation; batches are on the device before the
clock starts.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from soler1_jax.cli import bench_ceilings
from soler1_jax.cli.bench_generate import (
    OURS,
    PRESETS,
    THEIRS,
    Inputs,
    make_inputs,
    require_peer,
)
from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.data.packing import PackedRows, RowShape, make_example, pack
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import training_flop
from soler1_jax.model.functional import Functional, Params, parameter_count
from soler1_jax.reward.pretrained import load_vlm
from soler1_jax.training import packed
from soler1_jax.training import state as states
from soler1_jax.training.optimizer import (
    OptimizerConfig,
    in_float32,
    make_optimizer,
    schedule,
)

LEARNING = OptimizerConfig(
    learning_rate=1e-5, warmup_steps=0, schedule="constant", b2=0.95
)
"""Settings that both sides share."""

Step = Callable[[], tuple[float, float]]
"""Returns the seconds of a step and its loss in nats."""


def measure(
    preset: str,
    rows: int,
    records: int,
    record_tokens: Sequence[int],
    answer_tokens: int,
    pictures: Sequence[int],
    picture_side: Sequence[int],
    dtype: str,
    remat: bool,
    peer: bool,
    repeats: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield one row a side.

    Args:
      preset: a key of `PRESETS`.
      rows: B.
      records: M.
      record_tokens: of a record, those of pictures included: one number, or M.
      answer_tokens: the last of each record, whose prediction counts.
      pictures: in each record: one number, or M.
      picture_side: in pixels: one number, or M.
      dtype: of activations and products, float32 or bfloat16; weights are float32.
      remat: whether layers are computed again in the backward pass, on both sides.
      peer: whether to time transformers.
      repeats: R.
      seed: of weights and records.

    Raises:
      UserError: a number or name is out of range, or transformers is wanted and missing.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{nearest_hint(preset, PRESETS)}")
    config = with_remat(dataclasses.replace(PRESETS[preset], dtype=dtype), remat)
    lengths = _each("--record-tokens", records, record_tokens)
    _check_answers(answer_tokens, lengths)
    shown = _each("--pictures", records, pictures)
    wide = _each("--picture-side", records, picture_side)
    drawn = [
        make_inputs(config, 1, *record, seed + i)
        for i, record in enumerate(list(zip(lengths, shown, wide, strict=True)) * rows)
    ]
    sides, count = _sides(config, drawn, answer_tokens, rows, remat, peer, seed)
    tokens = rows * sum(lengths)
    flop = sum(
        training_flop(
            config,
            1,
            record["input_ids"].size,
            record["image_grid_thw"].prod(axis=1),
            answer_tokens,
        )
        for record in drawn
    )
    # A CPU is as fast with smaller matrices, and done in seconds instead of minutes.
    side = {"side": 2048} if jax.default_backend() == "cpu" else {}
    ceiling = bench_ceilings.matmul_ceiling(dtype, **side)
    for side, row in _times(sides, repeats).items():
        yield {
            "side": side,
            "rows": rows,
            "records": records,
            "record_tokens": lengths,
            "pictures": shown,
            "picture_side": wide,
            "answer_tokens": answer_tokens,
            "dtype": dtype,
            "parameters": count,
            **row,
            "tokens_per_second": round(tokens / row["step_seconds"], 1),
            "tflops": round(flop / row["step_seconds"] / 1e12, 4),
            "mfu": round(flop / row["step_seconds"] / ceiling, 4),
            "matmul_tflops": round(ceiling / 1e12, 4),
        }


def _each(option: str, records: int, numbers: Sequence[int]) -> list[int]:
    """One number for each record of a row."""
    if len(numbers) not in (1, records):
        raise UserError(
            f"{option} is one number for all records of a row or one each; got "
            f"{len(numbers)} for {records}; change it or --records"
        )
    return list(numbers) * (records // len(numbers))


def _check_answers(answer_tokens: int, lengths: Sequence[int]) -> None:
    if not 0 < answer_tokens < min(lengths):
        raise UserError(
            "an answer is a part of a record; got --answer-tokens "
            f"{answer_tokens} of {min(lengths)}; give fewer, at least 1"
        )


def padded(records: Sequence[Inputs]) -> Inputs:
    """Lay records one below the other, filled up on the right: [N, T]."""
    longest = max(record["input_ids"].size for record in records)

    def joined(name: str) -> np.ndarray:
        rows = [record[name][0] for record in records]
        return np.stack([np.pad(row, (0, longest - row.size)) for row in rows])

    return {
        "input_ids": joined("input_ids"),
        "attention_mask": joined("attention_mask"),
        "pixel_values": np.concatenate([r["pixel_values"] for r in records]),
        "image_grid_thw": np.concatenate([r["image_grid_thw"] for r in records]),
    }


def _sides(
    config: ModelConfig,
    records: Sequence[Inputs],
    answer_tokens: int,
    rows: int,
    remat: bool,
    peer: bool,
    seed: int,
) -> tuple[dict[str, Step], int]:
    """The steps to time, on the same weights, and how many weights there are."""
    sides: dict[str, Step] = {}
    if peer:
        require_peer()
        from soler1_jax.cli import bench_transformers

        with tempfile.TemporaryDirectory() as folder:
            single = dataclasses.replace(config, dtype="float32")
            bench_transformers.write_checkpoint(single, Path(folder), seed)
            model = bench_transformers.load(Path(folder), "float32")
            params = load_vlm(folder, "float32").params
        sides[THEIRS] = bench_transformers.training(
            model, config, padded(records), answer_tokens, LEARNING, remat=remat
        )
    else:
        params = jax.jit(Functional(config).init, static_argnums=0)(seed)
    count = parameter_count(params)
    sides[OURS] = _ours(config, params, records, answer_tokens, rows)
    return sides, count


def with_remat(config: ModelConfig, remat: bool) -> ModelConfig:
    """Say whether all layers are computed again in the backward pass."""
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, remat=remat),
        text=dataclasses.replace(config.text, remat=remat),
    )


def packed_rows(
    config: ModelConfig, records: Sequence[Inputs], answer_tokens: int, rows: int
) -> PackedRows:
    """Lay records side by side in rows.

    Args:
      config: of the model.
      records: N of `make_inputs`, one each, M a row; all rows have as many tokens.
      answer_tokens: the last of each record, which count 1 each.
      rows: B.
    """
    examples = []
    for record in records:
        ids = record["input_ids"][0]
        weights = np.zeros(len(ids), np.float32)
        weights[-answer_tokens:] = 1
        pictures = {k: record[k] for k in ("pixel_values", "image_grid_thw")}
        examples.append(make_example(config, ids, weights, **pictures))
    sizes = np.concatenate([r["image_grid_thw"].prod(axis=1) for r in records])
    # of one size they lie side by side, else one behind the other, as in training
    shared = len(set(sizes)) > 1
    shape = RowShape(
        rows=rows,
        length=sum(record["input_ids"].size for record in records) // rows,
        pictures=1 if shared else len(sizes) // rows,
        patches=int(sizes.sum()) // rows if shared else int(sizes[0]),
        shared=shared,
    )
    (batch,) = pack(examples, config, shape)
    return batch


def on_devices(config: ModelConfig, batch: PackedRows, mesh: Mesh) -> PackedRows:
    """Place rows on a mesh, their pixels in the dtype of activations."""
    pixels = batch.patches.values.astype(jnp.dtype(config.dtype))
    batch = batch._replace(patches=batch.patches._replace(values=pixels))
    return jax.device_put(batch, meshes.batch_sharding(mesh))


def _ours(
    config: ModelConfig,
    params: Params,
    records: Sequence[Inputs],
    answer_tokens: int,
    rows: int,
) -> Step:
    """Our side; it holds the training state from step to step."""
    functions, mesh = Functional(config), meshes.make_mesh()
    logical = functions.logical_axes()
    rate = schedule(LEARNING, 1000)
    optimizer = in_float32(make_optimizer(LEARNING, rate, logical))
    state = jax.jit(lambda p: states.create(p, optimizer, 0), donate_argnums=0)(params)
    placed = states.state_shardings(state, mesh, logical)
    step = packed.make_step(functions, optimizer, packed.PackedConfig(), mesh, placed)
    batch = on_devices(config, packed_rows(config, records, answer_tokens, rows), mesh)
    held = [jax.device_put(state, placed)]

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        held[0], metrics = step(held[0], batch)
        loss = float(metrics["loss"])
        jax.block_until_ready(held[0])
        return time.perf_counter() - start, loss

    return run


def _times(sides: dict[str, Step], repeats: int) -> dict[str, dict[str, Any]]:
    """Run all sides once to compile, then R times in turn; side -> row."""
    first = {side: step() for side, step in sides.items()}
    rounds = [{side: step() for side, step in sides.items()} for _ in range(repeats)]
    rows = {}
    for side in sides:
        seconds = [r[side][0] for r in rounds]
        rows[side] = {
            "step_seconds": round(float(np.median(seconds)), 4),
            "step_seconds_range": [round(min(seconds), 4), round(max(seconds), 4)],
            "first_step_seconds": round(first[side][0], 2),
            "first_loss": round(first[side][1], 5),
            "last_loss": round(rounds[-1][side][1], 5),
        }
    if THEIRS in sides:
        times = [r[THEIRS][0] / r[OURS][0] for r in rounds]
        rows[OURS]["times_transformers"] = round(float(np.median(times)), 2)
        rows[OURS]["times_range"] = [round(min(times), 2), round(max(times), 2)]
    return rows
