"""How many queries and keys a block has."""

import jax

Array = jax.Array

_LANES = 128
"""Width of a TPU vector register; blocks are multiples of it."""

_CPU_BLOCK = 128
"""A block's logits stay in a core's cache; of 128, 256 and 512 the fastest measured."""

_BLOCK = 512

_GPU_ROWS = 64
"""Queries of a warpgroup of the Hopper kernel; two make a block."""


def choose(
    implementation: str,
    q: Array,
    k: Array,
    wanted: tuple[int, int] | None,
    platform: str | None = None,
) -> tuple[int, int]:
    """Return the numbers of queries and keys of a block.

    Args:
      implementation: the program's name.
      q: [B, Tq, Hq, D].
      k: [B, Tk, Hkv, D].
      wanted: what the caller asks for, or None.
      platform: for which the program is; None for the default backend.

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
            return _even(q.shape[1]), _even(k.shape[1])
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


def _even(length: int) -> int:
    """Return the size of about equal CPU blocks: 144 for 576, whose fifth is half empty."""
    return -(-length // max(1, length // _CPU_BLOCK))


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
