"""How many queries and keys a block has."""

import math

import jax

Array = jax.Array

_LANES = 128
"""Width of a TPU vector register; blocks are multiples of it."""

_CPU_BLOCK = 64
"""Where blocks can be left out, 64 was the fastest of 32 to 512. With segments, whose
masks are selected by, also much faster than blocks of 67 or 100."""

_CPU_FULL_BLOCK = 512
_CPU_FULL_BYTES = 64 * 2**20
"""Where none can, cores share out large products better: blocks of about 512 while the
logits of all their heads are no more than this."""

_BLOCK = 512

_GPU_ROWS = 64
"""Queries of a warpgroup of the Hopper kernel; two make a block."""


def choose(
    implementation: str,
    q: Array,
    k: Array,
    wanted: tuple[int, int] | None,
    platform: str | None = None,
    causal: bool = False,
    segments: bool = False,
) -> tuple[int, int]:
    """Return the numbers of queries and keys of a block.

    Args:
      implementation: the program's name.
      q: [B, Tq, Hq, D].
      k: [B, Tk, Hkv, D].
      wanted: what the caller asks for, or None.
      platform: for which the program is; None for the default backend.
      causal, segments: whether later keys are hidden, and whether there are segments.

    Raises:
      ValueError: `wanted` is not two positive numbers, or does not suit the
        program.
    """
    unit = {"xla": 1, "pallas_gpu": _GPU_ROWS}.get(implementation, _LANES)
    if wanted is not None:
        if len(wanted) != 2 or any(size < 1 or size % unit for size in wanted):
            raise ValueError(
                f"blocks must be two positive multiples of {unit} for {implementation};"
                f" got {tuple(wanted)}; leave it out to choose by shape"
            )
        if implementation == "pallas_gpu" and max(wanted) > 2 * _GPU_ROWS:
            raise ValueError(
                f"blocks of pallas_gpu are at most {2 * _GPU_ROWS}; got {tuple(wanted)};"
                " leave it out to choose by shape"
            )
        return tuple(
            min(w, _round_up(x.shape[1], unit))
            for w, x in zip(wanted, (q, k), strict=True)
        )
    if implementation == "xla":
        if (platform or jax.default_backend()) == "cpu":
            return _on_cpu(q, k, causal, segments)
        most_q = most_k = _BLOCK
    elif implementation == "pallas_gpu":
        # two buffers of keys and of values must fit in shared memory beside the queries
        most_q, most_k = 2 * _GPU_ROWS, 128 if q.shape[-1] <= 128 else 64
    else:
        # a block of logits and its like must fit in VMEM beside the operands
        most_q = most_k = _BLOCK if q.shape[-1] <= 128 else _BLOCK // 2
    return (
        min(most_q, _round_up(q.shape[1], unit)),
        min(most_k, _round_up(k.shape[1], unit)),
    )


def _on_cpu(q: Array, k: Array, causal: bool, segments: bool) -> tuple[int, int]:
    batch, queries, heads, _ = q.shape
    keys = k.shape[1]
    if segments:
        return min(queries, _CPU_BLOCK), min(keys, _CPU_BLOCK)
    size = _CPU_BLOCK if causal else _CPU_FULL_BLOCK
    blocks = _even(queries, size), _even(keys, size)
    while size > _CPU_BLOCK and 4 * batch * heads * math.prod(blocks) > _CPU_FULL_BYTES:
        size //= 2
        blocks = _even(queries, size), _even(keys, size)
    return blocks


def _even(length: int, size: int) -> int:
    """Return what about equal parts of at least `size` have at most: 67 of 200 for 64."""
    return -(-length // max(1, length // size))


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
