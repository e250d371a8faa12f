"""What a device could do at most, and which share of it a generation reached.

Model FLOP utilisation of the prefill is the model's FLOP over what a large matrix product
reaches; bandwidth of the decode is the bytes that every token must read, weights and
cache, over what a large copy moves. Both ceilings are measured, not looked up.

Letters: B prompts, T tokens of a prompt, P patches of all pictures, S new tokens.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params

_SIDE, _COPIED, _CALLS = 8192, 2**30, 10


def shares(
    config: ModelConfig,
    params: Params,
    inputs: Mapping[str, np.ndarray],
    row: Mapping[str, Any],
) -> dict[str, float]:
    """Return the shares that a row of `bench_generate` reached, and the ceilings.

    Args:
      config: of the model.
      params: its weights.
      inputs: what a Qwen3-VL processor returns.
      row: with `prefill_seconds`, `decode_seconds`, `batch`, `prompt_tokens` and
        `new_tokens`.
    """
    batch, prompt, new = row["batch"], row["prompt_tokens"], row["new_tokens"]
    frames = inputs["image_grid_thw"].prod(axis=1)
    flop = prefill_flop(config, batch, prompt, frames) / row["prefill_seconds"]
    read = sum(
        decode_bytes(config, params, batch, prompt + step) for step in range(1, new)
    )
    read = read / row["decode_seconds"]
    matmul, copy = matmul_ceiling(config.dtype), copy_ceiling()
    return {
        "prefill_tflops": round(flop / 1e12, 3),
        "prefill_mfu": round(flop / matmul, 4),
        "decode_gb_per_second": round(read / 1e9, 2),
        "decode_bandwidth_share": round(read / copy, 4),
        "matmul_tflops": round(matmul / 1e12, 2),
        "copy_gb_per_second": round(copy / 1e9, 1),
    }


def prefill_flop(
    config: ModelConfig, batch: int, prompt: int, frames: np.ndarray
) -> float:
    """Count the multiplications and additions of matrix products up to the first token.

    Args:
      config: of a model with the linear stem.
      batch: B.
      prompt: T, padding not counted.
      frames: int [N], patches of each picture.

    Returns:
      FLOP. Attention counts all pairs, as usual for utilisation, although half of the
      decoder's are masked.
    """
    vision, text = config.vision, config.text
    patches = int(np.sum(frames))
    rows = {"patches": patches, "tokens": batch * prompt, "prompts": batch}
    rows["merged"] = patches // vision.spatial_merge_size**2
    flop = 0.0
    leaves = jax.tree_util.tree_flatten_with_path(Functional(config).shapes())[0]
    for path, leaf in leaves:
        names = [key.key for key in path]
        if names[-1] == "kernel":
            flop += 2 * leaf.size * rows[_fed_by(names)]
    if text.tie_embeddings:
        flop += 2 * batch * text.vocab_size * text.hidden_size
    pairs = int(np.sum(np.asarray(frames, np.int64) ** 2))
    flop += 4 * vision.depth * vision.hidden_size * pairs
    wide = text.num_heads * text.head_dim
    return flop + 4 * text.depth * wide * batch * prompt**2


def training_flop(
    config: ModelConfig, records: int, length: int, frames: np.ndarray
) -> float:
    """Count the multiplications and additions of matrix products of a training step.

    Args:
      config: of a model with the linear stem.
      records: that do not see each other.
      length: tokens of a record, padding not counted.
      frames: int [N], patches of each picture.

    Returns:
      FLOP: three times those of the forward pass, every token predicting the next. What
      is computed again in the backward pass does not count.
    """
    words = config.text.vocab_size * config.text.hidden_size
    others = 2 * records * (length - 1) * words
    return 3 * (prefill_flop(config, records, length, frames) + others)


def _fed_by(names: list[str]) -> str:
    """What a kernel is multiplied with."""
    if names[0] == "visual":
        return "merged" if "merger" in names[1] else "patches"
    return "tokens" if names[0] == "language_model" else "prompts"


def decode_bytes(config: ModelConfig, params: Params, batch: int, places: int) -> int:
    """Count what one step of decoding must read: decoder, output matrix, filled cache.

    Args:
      config: of the model.
      params: its weights.
      batch: B.
      places: of the cache that hold a token.
    """
    text = config.text
    head = "embed_tokens" if text.tie_embeddings else "lm_head"
    read = jax.tree.leaves((params["language_model"], params[head]))
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in read)
    numbers = 2 * text.depth * batch * text.num_kv_heads * text.head_dim * places
    return weights + numbers * jnp.dtype(config.dtype).itemsize


def matmul_ceiling(dtype: str, side: int = _SIDE) -> float:
    """Measure FLOP/s of a square matrix product."""
    x = jnp.ones((side, side), dtype)
    return 2 * side**3 / _best(jax.jit(jnp.matmul), x, x)


def copy_ceiling(size: int = _COPIED) -> float:
    """Measure bytes/s, read and written, of a copy."""
    x = jnp.ones(size // 4, jnp.float32)
    return 2 * size / _best(jax.jit(lambda x: x + 1), x)


def _best(program: Callable[..., jax.Array], *args: jax.Array) -> float:
    """Return the least seconds of some calls, compilation not counted."""
    jax.block_until_ready(program(*args))
    best = math.inf
    for _ in range(_CALLS):
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        best = min(best, time.perf_counter() - start)
    return best
