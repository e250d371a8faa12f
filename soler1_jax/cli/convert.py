"""Convert a Qwen3-VL or PaliGemma 2 checkpoint of Hugging Face for JAX, or back.

Weights become an Orbax checkpoint that restores straight into any sharding; configuration,
tokenizer and processor files are copied along. Base and fine-tuned checkpoints, in one
file or several. Numbers keep their bits, and there and back gives the same tensors.
Memory stays small whatever the size of the model. DST appears when it is complete.

soler1 convert Qwen3-VL-8B-Instruct models/qwen3-vl-8b

soler1 convert models/qwen3-vl-8b back --to hf
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 convert` is given."""

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """Folder with config.json and safetensors files; with --to hf, a converted one."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """Folder to make; it must not exist, be empty, or hold this very conversion."""
    to: Literal["orbax", "hf"] = "orbax"
    """What to write: an Orbax checkpoint, or safetensors files."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Of the weights written; keep leaves each tensor its own."""
    prompt: Path | None = None
    """JSON file with the words that a rewarder was trained to be asked with, stored
    beside the weights; soler1_jax/tokenizers/wording.py lists its fields."""
    shard_gb: float = 5.0
    """With --to hf: the most that one safetensors file holds, in 10^9 bytes."""


def run(args: Args) -> None:
    """Converts; prints what was written."""
    from soler1_jax.checkpoints.conversion import Options
    from soler1_jax.checkpoints.convert import convert
    from soler1_jax.common.errors import require_positive
    from soler1_jax.common.progress import Bar
    from soler1_jax.tokenizers.wording import read_wording

    require_positive("--shard-gb", args.shard_gb)
    options = Options(
        to=args.to,
        dtype=None if args.dtype == "keep" else args.dtype,
        shard_bytes=round(args.shard_gb * 1e9),
        wording=None if args.prompt is None else read_wording(args.prompt),
    )
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        # The size is known when the source has been checked.
        make = functools.cache(
            lambda total: stack.enter_context(Bar("convert", total, "MB"))
        )
        done = convert(
            args.src,
            args.dst,
            options,
            lambda written, total: make(_megabytes(total)).update(_megabytes(written)),
        )
    size = f"{done.tensors} tensors, {done.nbytes / 1e6:,.2f} MB"
    if done.fresh:
        print(f"{args.dst}: {size}, {time.monotonic() - start:.1f} s")
    else:
        print(f"{args.dst}: {size}, there already")


def _megabytes(count: int) -> int:
    return math.ceil(count / 1e6)
