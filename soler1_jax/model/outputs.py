"""What the model gives, and what it carries while it writes.

Letters: B queries, S generated tokens, V token ids, C places of the cache.
"""

from typing import Any, NamedTuple

import jax


class Outputs(NamedTuple):
    """Teacher-forced predictions, float32. Place t predicts completion token t."""

    logits: jax.Array  # [B, S, V]
    value_logits: jax.Array  # [B, S, bins]; meaningful where the answer starts
    state: jax.Array  # [B, state_size], read at the last word of the prompt


class Step(NamedTuple):
    """Predictions of one token, float32."""

    logits: jax.Array  # [B, V]
    value_logits: jax.Array  # [B, bins]


class Cache(NamedTuple):
    """What generation carries from token to token."""

    layers: Any  # one LayerCache a layer
    valid: jax.Array  # bool [B, C], places that may be looked at
    index: jax.Array  # int32 [], place of the next token, the same for all sequences
    position: jax.Array  # int32 [B], rotary position of the next token
    # Of every place; None unless there are sliding layers.
    positions: jax.Array | None = None  # int32 [B, C]
    # Weights of scanned layers one by one, a second copy; None on TPUs, whose programs
    # slice the stacked ones within the products. CPUs and GPUs would copy them out at
    # every token: an H100 spent 43 % of its time so (Qwen3-VL-2B, 8 sequences).
    apart: Any = None
