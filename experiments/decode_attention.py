"""Measures decode attention on a CPU beside jax.nn.dot_product_attention.

    python experiments/decode_attention.py

Both get the same queries, caches and lengths, in one process, in turn; the figures are
the least processor seconds of some calls, which a busy machine changes less than the time
on the clock, and the temporary memory that XLA reports. Lengths are either the whole
capacity or drawn between an eighth and a half of it. Shapes are those of
kernels/decode_attention/shapes.py with fewer sequences and keys. Also counts, for these
lengths, the bytes of the caches that the TPU kernel reads, by its own schedule. Figures:
experiments/results/decode_attention.json.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from soler1_jax.kernels.decode_attention import tpu
from soler1_jax.kernels.decode_attention.api import decode_attention
from soler1_jax.kernels.decode_attention.shapes import DecodeShape

from soler1_jax.common.run import command_line, environment, write_json

SHAPES = (
    DecodeShape("qwen3-vl-2b", 8, 1024, 16, 8, 128),
    DecodeShape("qwen3-vl-8b", 4, 2048, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 4, 2048, 32, 8, 128, "float32", "float32"),
    DecodeShape("paligemma2-3b", 8, 1024, 8, 4, 256),
    DecodeShape("nano", 256, 128, 4, 2, 32, "float32", "float32"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """How to measure."""

    repeats: int = 20
    """Timed calls."""
    out: Path = Path("experiments/results/decode_attention.json")
    """Where the figures go."""


def jax_attention(q: Any, k: Any, v: Any, lengths: Any) -> jax.Array:
    """What a user has without this kernel."""
    return jax.nn.dot_product_attention(
        q[:, None], k, v, key_value_seq_lengths=lengths
    )[:, 0]


def measure(shape: DecodeShape, lengths: np.ndarray, repeats: int) -> dict[str, Any]:
    """Return the figures of both at one shape."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal(x.shape, np.float32), x.dtype)
        for x in shape.arguments()[:3]
    )
    arguments = (q, k, v, jnp.asarray(lengths))
    functions: dict[str, Callable] = {"jax.nn": jax_attention, "ours": decode_attention}
    programs = {
        name: jax.jit(function).lower(*arguments).compile()
        for name, function in functions.items()
    }
    seconds = dict.fromkeys(programs, float("inf"))
    for _ in range(repeats):
        for name, program in programs.items():
            begin = time.process_time()
            jax.block_until_ready(program(*arguments))
            seconds[name] = min(seconds[name], time.process_time() - begin)
    row: dict[str, Any] = {
        "shape": shape.label,
        "heads": f"{shape.heads}/{shape.kv_heads}x{shape.head_dim}",
        "mean_length": round(float(lengths.mean()), 1),
    }
    for name, program in programs.items():
        row[f"{name} ms"] = round(1e3 * seconds[name], 2)
        row[f"{name} temp MiB"] = round(
            program.memory_analysis().temp_size_in_bytes / 2**20, 2
        )
    row["times jax.nn"] = round(seconds["jax.nn"] / seconds["ours"], 2)
    keys = min(
        tpu.block_keys(shape.heads, shape.kv_heads, shape.head_dim, k.dtype.itemsize),
        shape.capacity,
    )
    blocks = -(-shape.capacity // keys)
    read = int(tpu.schedule(jnp.asarray(lengths), keys, blocks, 2).steps.sum()) * keys
    row["TPU schedule reads"] = round(read / (shape.batch * shape.capacity), 3)
    return row


def main(args: Args) -> None:
    """Measure every shape with whole and with mixed lengths."""
    rows = []
    for shape in SHAPES:
        whole = np.full(shape.batch, shape.capacity, np.int32)
        drawn = np.random.default_rng(1).integers(
            shape.capacity // 8, shape.capacity // 2, shape.batch
        )
        for lengths in (whole, drawn.astype(np.int32)):
            rows.append(measure(shape, lengths, args.repeats))
            print(rows[-1], flush=True)
    write_json(
        args.out,
        {"command": command_line(), "environment": environment(), "rows": rows},
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
