"""What the model gives.

Letters: B queries, S generated tokens, V token ids.
"""

from typing import NamedTuple

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
