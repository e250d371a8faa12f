"""SOLE-R1's picture: sizes of the release, and what lies where."""

import jax
import numpy as np
import pytest

from soler1_jax.data.video import letterbox
from soler1_jax.reward import composite


@pytest.mark.parametrize(
    ("views", "columns", "picture", "stored"),
    [
        (2, 3, (773, 1162), (784, 1176)),
        (2, 2, (773, 773), (784, 784)),
        (1, 3, (384, 1162), (392, 1176)),
        (1, 2, (384, 773), (392, 784)),
    ],
)
def test_sizes_are_those_of_the_release(views, columns, picture, stored):
    assert composite.picture_size(views, columns) == picture
    assert composite.stored_size(*picture) == stored


def _views(value):
    side = 8
    return {
        "wrist": np.full((2, side, side, 3), value + 1, np.uint8),
        "external": np.full((2, side, side, 3), value, np.uint8),
    }


def test_first_previous_and_current_lie_from_left_to_right_external_above():
    picture = composite.compose(_views(10), _views(20), _views(30))
    assert picture.shape == (2, *composite.picture_size(2, 3, 8), 3)
    step = 8 + composite.GAP
    corners = picture[0, ::step, ::step, 0]
    np.testing.assert_array_equal(corners, [[10, 20, 30], [11, 21, 31]])
    gaps = np.ones(picture.shape[1:3], bool)
    for top in (0, step):
        for left in (0, step, 2 * step):
            gaps[top : top + 8, left : left + 8] = False
    assert (picture[:, gaps] == 0).all() and (picture[:, ~gaps] > 0).all()


def test_the_previous_frame_may_be_left_out():
    picture = composite.compose(_views(10), None, _views(30))
    assert picture.shape[1:3] == composite.picture_size(2, 2, 8)
    np.testing.assert_array_equal(picture[0, 0, :: 8 + composite.GAP, 0], [10, 30])


def test_host_and_device_agree():
    rng = np.random.default_rng(0)
    views = [{"external": rng.integers(0, 256, (1, 384, 384, 3), np.uint8)}] * 3
    host = composite.as_stored(composite.compose(*views))
    device = jax.jit(lambda v: composite.as_stored(composite.compose(*v)))(views)
    assert host.shape == (1, 392, 1176, 3)
    np.testing.assert_array_equal(host, device)


@pytest.mark.parity
def test_tiles_are_opencvs_area_resize():
    """The release fits frames with cv2.INTER_AREA."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    for height, width in ((600, 400), (768, 768), (480, 640), (100, 37), (1000, 999)):
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        scale = 384 / max(height, width)
        size = int(width * scale), int(height * scale)
        theirs = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        top, left = (384 - size[1]) // 2, (384 - size[0]) // 2
        ours = letterbox(frame, 384)
        inside = ours[top : top + size[1], left : left + size[0]]
        assert np.abs(inside.astype(int) - theirs).max() <= 1
        assert ours.sum() == inside.sum()
