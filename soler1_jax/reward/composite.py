"""SOLE-R1's picture: first, previous and current frame side by side, a row per view.

Every frame is a black-padded square tile; black gaps separate columns and rows. The
external camera is the upper row, the wrist's the lower one. Before a checkpoint's own
processor sees it, the picture is resized once more, to multiples of 28 pixels, as it was
when the training data were stored (arXiv 2603.28730 code release, its composite and
resize; sizes in the tests are those of the release).
"""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.rewarder import Views
from soler1_jax.data.patches import smart_resize
from soler1_jax.data.resize import resize, resize_on_device

TILE = 384
GAP = 5
ORDER = ("external", "wrist")
_FACTOR = 28
_MIN_PIXELS, _MAX_PIXELS = 4 * 28 * 28, 16384 * 28 * 28


def compose(first: Views, previous: Views | None, current: Views) -> jax.Array:
    """Puts frames side by side; on the host or inside jit.

    Args:
      first, previous, current: view -> uint8 [..., S, S, 3], tiles of equal size
        (`data.video.letterbox` makes them), all with the same views. `previous` is None
        for rewarders that are not shown it.

    Returns:
      uint8 [..., rows*S + gaps, columns*S + gaps, 3].
    """
    shown = [frames for frames in (first, previous, current) if frames is not None]
    rows = []
    for view in ORDER:
        if view in current:
            rows.append(_joined([frames[view] for frames in shown], axis=-2))
    return _joined(rows, axis=-3)


def picture_size(views: int, columns: int, side: int = TILE) -> tuple[int, int]:
    """Height and width in pixels of a picture of `views` rows and `columns` tiles."""
    return tuple(n * side + (n - 1) * GAP for n in (views, columns))


def stored_size(height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels at which such a picture was stored for training."""
    return smart_resize(height, width, _FACTOR, _MIN_PIXELS, _MAX_PIXELS)


def as_stored(picture: jax.Array) -> jax.Array:
    """Resizes pictures uint8 [..., H, W, 3] to `stored_size`, as PIL's bicubic does."""
    size = stored_size(*picture.shape[-3:-1])
    if isinstance(picture, np.ndarray):
        return resize(picture, *size, "pillow")
    return resize_on_device(picture, *size, "pillow")


def _joined(parts: list[jax.Array], axis: int) -> jax.Array:
    library = np if isinstance(parts[0], np.ndarray) else jnp
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = library.zeros(shape, np.uint8)
    spaced = [parts[0]]
    for part in parts[1:]:
        spaced += [gap, part]
    return library.concatenate(spaced, axis=axis)
