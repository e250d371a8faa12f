"""Padded rows of patches against a patch-by-patch derivation, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.model import presets, vision
from soler1_jax.model.functional import Functional
from soler1_jax.model.patches import bucket, frame_grids, pack_patches

QWEN = dataclasses.replace(
    presets.preset("qwen3-vl-2b").vision, patch_size=2, image_size=8, position_grid=5
)


def _values(grids: np.ndarray) -> np.ndarray:
    count = int(grids.prod(axis=1).sum())
    return np.random.RandomState(0).uniform(-1, 1, (count, QWEN.patch_values))


def test_buckets_are_few_and_close() -> None:
    sizes = [bucket(n) for n in range(1, 4097)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert all(size <= 1.25 * n for n, size in enumerate(sizes, 1))
    assert sizes[:8] == list(range(1, 9))
    assert len(set(sizes)) == 8 + 4 * 9


def test_every_patch_of_a_video_frame_is_in_its_place() -> None:
    """Blocks row by row, places in a block row by row; frames of a video one by one."""
    grids = frame_grids([[2, 4, 6], [1, 2, 8]])
    np.testing.assert_array_equal(grids, [[4, 6], [4, 6], [2, 8]])
    values = _values(grids).astype(np.float32)
    packed = pack_patches(values, grids, QWEN)
    assert packed.values.shape == (3, 24, 24) and packed.mask.sum() == 64
    at = 0
    for frame, (rows, columns) in enumerate(grids):
        place = 0
        for down in range(0, rows, 2):
            for across in range(0, columns, 2):
                for inner in range(4):
                    row, column = down + inner // 2, across + inner % 2
                    np.testing.assert_array_equal(
                        packed.places[frame, place], (row, column)
                    )
                    np.testing.assert_array_equal(
                        packed.values[frame, place], values[at]
                    )
                    place, at = place + 1, at + 1
        assert packed.mask[frame].sum() == place
    assert not packed.values[~packed.mask].any()


@pytest.mark.parametrize("grids", [[[1, 4, 6], [1, 2, 8]], [[1, 4, 8], [1, 8, 4]]])
def test_pixels_on_a_device_stay_there(grids: list[list[int]]) -> None:
    grids = frame_grids(grids)
    values = _values(grids).astype(np.float32)
    there = jnp.asarray(values, jnp.bfloat16)
    packed = pack_patches(there, grids, QWEN)
    assert isinstance(packed.values, jax.Array) and packed.values.dtype == jnp.bfloat16
    wanted = pack_patches(values, grids, QWEN)
    np.testing.assert_array_equal(packed.values, wanted.values.astype(jnp.bfloat16))


def test_the_position_table_is_interpolated_between_its_corners() -> None:
    grids = np.array([[4, 8], [6, 2]])
    packed = pack_patches(_values(grids), grids, QWEN)
    down, across = np.divmod(np.arange(25), 5)
    table = np.stack([3.0 * down - across, down * across], axis=1)
    mixed = (table[packed.taps] * packed.weights[..., None]).sum(-2)
    for frame, (rows, columns) in enumerate(grids):
        there = packed.mask[frame]
        row, column = packed.places[frame, there].T
        y = np.linspace(0, 4, rows)[row]
        x = np.linspace(0, 4, columns)[column]
        np.testing.assert_allclose(mixed[frame, there, 0], 3 * y - x, atol=1e-5)
        # Bilinear within a cell of the table, where the product is bilinear too.
        np.testing.assert_allclose(mixed[frame, there, 1], y * x, atol=1e-5)


def test_frames_that_fill_a_bucket_are_empty() -> None:
    grids = np.full((9, 2), 2)
    assert pack_patches(_values(grids), grids, QWEN).mask.sum(axis=1)[9:].sum() == 0
    assert len(pack_patches(_values(grids), grids, QWEN).mask) == 10
    assert len(pack_patches(_values(grids), grids, QWEN, exact=True).mask) == 9


def test_arrays_that_do_not_fit_are_refused() -> None:
    grids = np.array([[4, 6]])
    with pytest.raises(UserError, match=r"\[24, 24\].*got \[23, 24\]"):
        pack_patches(_values(grids)[1:], grids, QWEN)
    with pytest.raises(UserError, match=r"merge size 2; got \[3, 4\]"):
        odd = np.array([[3, 4]])
        pack_patches(_values(odd), odd, QWEN)
    for wrong in ([[1, 2]], [[0, 2, 2]], [[1.0, 2.0, 2.0]]):
        with pytest.raises(UserError, match="positive whole numbers"):
            frame_grids(wrong)


def test_a_conv_stem_takes_no_patches() -> None:
    model = Functional(presets.micro(40))
    grids = np.array([[4, 4]])
    packed = pack_patches(_values(grids), grids, QWEN)
    with pytest.raises(UserError, match="linear stem"):
        model.encode_patches(model.init(0), packed)


def test_frames_one_by_one_are_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2}
    size = dataclasses.replace(QWEN, **small, deepstack_indexes=(0, 1))
    config = dataclasses.replace(presets.preset("qwen3-vl-2b", 30), vision=size)
    text = dataclasses.replace(config.text, depth=2, hidden_size=16)
    config = dataclasses.replace(config, text=text, dtype="float32")
    model = Functional(config)
    params = model.init(0)
    grids = np.array([[4, 6], [2, 8], [6, 2]])
    packed = pack_patches(_values(grids), grids, size, exact=True)
    together = jax.jit(model.encode_patches)(params, packed)
    seen = []
    encode = vision.VisionTower._encode

    def watch(self, patches):
        seen.append(patches.mask.shape)
        return encode(self, patches)

    monkeypatch.setattr(vision, "_LONG", 1)
    monkeypatch.setattr(vision.VisionTower, "_encode", watch)
    alone = jax.jit(lambda *x: model.encode_patches(*x))(params, packed)
    assert seen == [(1, 24)]
    blocks = packed.mask.reshape(3, -1, 4).all(axis=2)
    for a, b in ((together.tokens, alone.tokens), (together.patches, alone.patches)):
        there = blocks if a.shape[1] == blocks.shape[1] else packed.mask
        np.testing.assert_allclose(a[there], b[there], atol=2e-5)
    for level in range(2):
        a, b = together.deepstack[:, level], alone.deepstack[:, level]
        np.testing.assert_allclose(a[blocks], b[blocks], atol=2e-5)
