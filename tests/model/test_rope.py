"""Rotary positions against a re-derivation with loops and complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.model import rope
from soler1_jax.model.prefix import (
    frame_offsets,
    full_mask,
    prefix_positions,
)


def _interleaved(positions: np.ndarray, sections: tuple, theta: float) -> np.ndarray:
    """Angles of one token at (time, height, width), one frequency at a time."""
    size = 2 * sum(sections)
    angles = []
    for i in range(size // 2):
        turn, axis = divmod(i, 3)
        if axis and turn < sections[axis]:
            position = positions[axis]
        else:
            position = positions[0]
        angles.append(position / theta ** (2 * i / size))
    return np.array(angles)


@pytest.mark.parametrize("sections", [(24, 20, 20), (6, 5, 5), (4, 2, 2)])
def test_interleaved_angles(sections: tuple[int, int, int]) -> None:
    positions = np.random.default_rng(0).integers(0, 700, (2, 3, 11))
    angles = rope.mrope_angles(jnp.asarray(positions), sections, 5e6)
    for b in range(2):
        for t in range(11):
            expected = _interleaved(positions[b, :, t], sections, 5e6)
            np.testing.assert_allclose(angles[b, t], expected, rtol=1e-5, atol=1e-6)
    counts = np.bincount(rope.mrope_axes(sections), minlength=3)
    assert tuple(counts) == sections


def test_text_positions_are_plain_rotary_positions() -> None:
    positions = jnp.broadcast_to(jnp.arange(600), (1, 3, 600))
    angles = rope.mrope_angles(positions, (6, 5, 5), 1e4)
    base = rope.frequencies(32, 1e4)
    np.testing.assert_allclose(angles[0], np.arange(600)[:, None] * base, rtol=1e-6)


def test_rotation_is_a_complex_product_and_sees_only_differences() -> None:
    x = np.random.default_rng(1).normal(size=(5, 2, 8)).astype(np.float32)
    angles = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    turned = np.asarray(rope.rotate(jnp.asarray(x), jnp.asarray(angles)))
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(turned[..., :4], expected.real, atol=1e-5)
    np.testing.assert_allclose(turned[..., 4:], expected.imag, atol=1e-5)
    query, key = x[0, 0], x[1, 1]
    base = rope.frequencies(8, 100.0)

    def score(a: float, b: float) -> jax.Array:
        q = rope.rotate(jnp.asarray(query)[None, None], jnp.asarray(a * base)[None])
        k = rope.rotate(jnp.asarray(key)[None, None], jnp.asarray(b * base)[None])
        return jnp.sum(q * k)

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-3)
    assert abs(score(9, 4) - score(9, 6)) > 1e-3


def test_axial_angles_turn_rows_then_columns() -> None:
    angles = rope.axial_angles(3, 8)
    base = rope.frequencies(4, 1e4)
    for patch in range(9):
        row, column = patch // 3, patch % 3
        expected = np.concatenate([row * base, column * base])
        np.testing.assert_allclose(angles[patch], expected)


def test_table_interpolation_keeps_corners_and_is_linear() -> None:
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij")
    table = (3 * rows - 2 * columns).reshape(-1, 1)
    grid = (rope.interpolate_table(5, 9) @ table).reshape(9, 9)
    places = np.linspace(0, 4, 9)
    np.testing.assert_allclose(grid, 3 * places[:, None] - 2 * places, atol=1e-5)
    np.testing.assert_array_equal(rope.interpolate_table(4, 4), np.eye(16))


def test_prefix_positions_count_only_what_is_there() -> None:
    offsets = frame_offsets(2, 2)
    positions, following = prefix_positions(
        offsets,
        jnp.array([[True, False, True]]),
        jnp.array([[True, True, False]]),
    )
    # A frame spans 2 (grid) + 2 (slots) = 4 positions.
    first = np.array([[0, 0, 0, 0, 2, 3], [0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 2, 3]])
    np.testing.assert_array_equal(positions[0, :, :6], first)
    np.testing.assert_array_equal(positions[0, :, 12:18], first + 4)
    np.testing.assert_array_equal(positions[0, :, 18:20], [[8, 9]] * 3)
    assert following[0] == 10


def test_masks_written_out() -> None:
    there, words = jnp.array([[True, False, True]]), jnp.array([[True, True]])
    both = [
        [1, 0, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 1, 1, 1],
    ]
    np.testing.assert_array_equal(full_mask(there, words, bidirectional=True)[0], both)
    both[0] = [1, 0, 0, 0, 0]
    both[1] = [1, 0, 0, 0, 0]
    np.testing.assert_array_equal(full_mask(there, words, bidirectional=False)[0], both)
