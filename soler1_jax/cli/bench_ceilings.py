"""What a device could do at most, and which share of it a generation reached.

Model FLOP utilisation of the prefill is the model's FLOP over what a large matrix product
reaches; bandwidth of the decode is the bytes that every token must read, weights and
cache, over what a large copy moves. Both ceilings are measured, not looked up.

Letters: B prompts.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.model.config import ModelConfig
from soler1_jax.model.flop import prefill_flop
from soler1_jax.model.functional import Params

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
