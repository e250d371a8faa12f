"""Rotary positions: axial in the picture encoder, interleaved multimodal or plain in
the decoder.

Letters: B sequences, T tokens, h heads, d channels of a head, G patches along a side.
Angles are in radians. Rotation pairs channel i with channel i + d/2.
Source: Qwen3-VL technical report (arXiv 2511.21631), section 2 (interleaved MRoPE).
"""

import jax
import jax.numpy as jnp
import numpy as np


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns the channel pairs of each head.

    Args:
      x: [..., T, h, d].
      angles: float32 [..., T, d/2], shared by the heads.

    Returns:
      x's shape and dtype; computed in float32.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos = jnp.cos(angles)[..., None, :]
    sin = jnp.sin(angles)[..., None, :]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def frequencies(size: int, theta: float) -> np.ndarray:
    """Angular frequencies theta^(-2i/size) for i < size/2, float32 [size/2]."""
    return (theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)).astype(
        np.float32
    )


def axial_angles(grid: int, head_dim: int, theta: float = 1e4) -> np.ndarray:
    """Angles of the patches of a frame in row-major order, float32 [G*G, head_dim/2].

    The first half of the pairs turns with the row, the second with the column.
    """
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    base = frequencies(head_dim // 2, theta)
    return np.concatenate([rows[:, None] * base, columns[:, None] * base], axis=-1)


def place_angles(places: jax.Array, head_dim: int, theta: float = 1e4) -> jax.Array:
    """`axial_angles` of patches anywhere.

    Args:
      places: int32 [..., P, 2], row and column.
      head_dim: channels of a head.
      theta: base.

    Returns:
      float32 [..., P, head_dim/2].
    """
    turns = places[..., None] * jnp.asarray(frequencies(head_dim // 2, theta))
    return turns.reshape(*places.shape[:-1], -1)


def mrope_axes(sections: tuple[int, int, int]) -> np.ndarray:
    """Which position (0 time, 1 height, 2 width) turns each frequency, int [d/2].

    Height and width take every third frequency from the fast end, up to their section's
    length; time has the others. So all three see fast and slow frequencies.
    """
    axes = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def plain_section(head_dim: int) -> tuple[int, int, int]:
    """The section of plain rotary positions: time alone turns all frequencies."""
    return head_dim // 2, 0, 0


def mrope_angles(
    positions: jax.Array, sections: tuple[int, int, int], theta: float
) -> jax.Array:
    """Angles of decoder tokens.

    Args:
      positions: int32 [B, 3, T], time, height and width of each token; equal for text.
      sections: frequencies of time, height and width.
      theta: base.

    Returns:
      float32 [B, T, d/2].
    """
    chosen = positions.astype(jnp.float32)[:, mrope_axes(sections), :]
    base = jnp.asarray(frequencies(2 * sum(sections), theta))
    return jnp.swapaxes(chosen, 1, 2) * base


def interpolate_table(source: int, target: int) -> np.ndarray:
    """Bilinear weights from a source x source table to target x target places.

    The corners of both grids coincide. Returns float32 [target^2, source^2].
    """
    places = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    one = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(source)))
    return np.einsum("ai,bj->abij", one, one).reshape(target**2, -1).astype(np.float32)
