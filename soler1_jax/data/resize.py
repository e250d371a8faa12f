"""Bicubic resizing of uint8 pictures, bit for bit as the references do it.

Both references filter with the Keys kernel (a = -0.5), widened when shrinking, one
axis after the other, width first, in fixed point, and round to uint8 in between:

    out = clip((sum_i q_i * in_i + 2^(s-1)) >> s, 0, 255),   q = round(2^s * weight)

They differ in s. "torchvision" (the image and video processors of transformers where
torchvision is installed, on the CPU) takes the largest s at which q fits 16 bits;
"pillow" (PIL.Image.resize, what transformers falls back to) takes 22. Pillow 13 filters
the height first where it shrinks much more than the width; "pillow" here is the order
that earlier versions always keep. jax.image.resize has the same kernel but neither the
rounding in between nor the fixed point.

`resize` runs on the host, `resize_on_device` inside jit. The latter is exact too: a
weight is split into signed digits of 8 bits, which even a matrix unit that rounds float32
to bfloat16 holds exactly, as it does pixels, and its sums are whole numbers below 2^24.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from soler1_jax.common.errors import UserError, nearest_hint

Arithmetic = Literal["torchvision", "pillow"]
_PILLOW_BITS = 22
_DIGIT_BITS = 8


def resize(
    frames: np.ndarray, height: int, width: int, arithmetic: Arithmetic = "torchvision"
) -> np.ndarray:
    """Resizes pictures on the host.

    Args:
      frames: uint8 [..., H, W, C].
      height, width: h and w, new size in pixels.
      arithmetic: whose rounding to follow.

    Returns:
      uint8 [..., h, w, C].
    """
    frames = np.asarray(frames)
    _check(frames.dtype, height, width, arithmetic)
    frames = _filtered(frames, -2, width, arithmetic)
    return np.ascontiguousarray(_filtered(frames, -3, height, arithmetic))


def resize_on_device(
    frames: jax.Array, height: int, width: int, arithmetic: Arithmetic = "torchvision"
) -> jax.Array:
    """Resizes pictures inside jit; the same numbers as `resize`.

    Args:
      frames: uint8 [..., H, W, C].
      height, width: h and w, new size in pixels, known when traced.
      arithmetic: whose rounding to follow.

    Returns:
      uint8 [..., h, w, C].

    Raises:
      UserError: a side shrinks so much (about 128 times) that float32 is not exact.
    """
    _check(frames.dtype, height, width, arithmetic)
    frames = _filtered_on_device(frames, "sow,...hwc->s...hoc", -2, width, arithmetic)
    return _filtered_on_device(frames, "soh,...hwc->s...owc", -3, height, arithmetic)


@functools.lru_cache(maxsize=64)
def fixed_point_weights(
    old: int, new: int, arithmetic: Arithmetic
) -> tuple[scipy.sparse.csr_array, int]:
    """The filter of one axis.

    Args:
      old, new: sizes in pixels.
      arithmetic: whose rounding to follow.

    Returns:
      q int32 [new, old], sparse, and the shift s.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    reach = 2.0 * stretch
    rows, columns, values = [], [], []
    for row in range(new):
        # Float64 in the references' order of operations: a weight next to a half
        # would otherwise round the other way.
        centre = (row + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), old)
        taps = np.arange(first, last)
        weights = _keys((taps - centre + 0.5) * (1.0 / stretch))
        rows.append(np.full(len(taps), row))
        columns.append(taps)
        values.append(weights / weights.sum())
    weights = np.concatenate(values)
    shift = _PILLOW_BITS
    if arithmetic == "torchvision":
        fits = [s for s in range(23) if int(0.5 + weights.max() * 2**s) < 2**15]
        shift = fits[-1]
    scaled = weights * 2**shift
    numbers = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)
    places = (np.concatenate(rows), np.concatenate(columns))
    matrix = scipy.sparse.csr_array((numbers, places), shape=(new, old))
    return matrix, shift


def _keys(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -0.5 (Keys, 1981)."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _filtered(
    frames: np.ndarray, axis: int, new: int, arithmetic: Arithmetic
) -> np.ndarray:
    old = frames.shape[axis]
    if old == new:
        return frames
    matrix, shift = fixed_point_weights(old, new, arithmetic)
    rows = np.moveaxis(frames, axis, 0)
    sums = matrix @ rows.reshape(old, -1).astype(np.int32)
    sums += 1 << (shift - 1)
    sums >>= shift
    pixels = np.clip(sums, 0, 255).astype(np.uint8).reshape(new, *rows.shape[1:])
    return np.moveaxis(pixels, 0, axis)


def _filtered_on_device(
    frames: jax.Array, contraction: str, axis: int, new: int, arithmetic: Arithmetic
) -> jax.Array:
    old = frames.shape[axis]
    if old == new:
        return frames
    digits, shift = _digits(old, new, arithmetic)
    parts = jnp.einsum(
        contraction,
        jnp.asarray(digits, jnp.float32),
        frames.astype(jnp.float32),
    ).astype(jnp.int32)
    total = functools.reduce(lambda high, low: (high << _DIGIT_BITS) + low, parts[::-1])
    pixels = (total + (1 << (shift - 1))) >> shift
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)


@functools.lru_cache(maxsize=16)
def _digits(old: int, new: int, arithmetic: Arithmetic) -> tuple[np.ndarray, int]:
    """q as signed digits to the base 256, lowest first: int8 [S, new, old], and s."""
    matrix, shift = fixed_point_weights(old, new, arithmetic)
    rest = matrix.toarray().astype(np.int64)
    base, digits = 1 << _DIGIT_BITS, []
    while rest.any():
        digit = (rest + base // 2) % base - base // 2
        digits.append(digit)
        rest = (rest - digit) // base
    stacked = np.stack(digits)
    if np.abs(stacked).sum(axis=-1).max() * 255 >= 2**24:
        raise UserError(
            "on the device a side may shrink about 128 times; "
            f"got {old} to {new} pixels; resize on the host first"
        )
    return stacked.astype(np.int8), shift


def _check(dtype: np.dtype, height: int, width: int, arithmetic: str) -> None:
    if dtype != np.uint8:
        raise UserError(f"pictures to resize are uint8; got {dtype}; convert them")
    if height < 1 or width < 1:
        raise UserError(
            f"a picture has one pixel or more; got {height} x {width}; enlarge it"
        )
    if arithmetic not in get_args(Arithmetic):
        raise UserError(
            f"resizing follows a known library; got {arithmetic!r}"
            f"{nearest_hint(arithmetic, get_args(Arithmetic))}"
        )
