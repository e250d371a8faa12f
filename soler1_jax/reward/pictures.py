"""Pictures of one size in the layout that the encoder takes, inside jit.

Letters: M pictures, P patches of a picture, I numbers of a patch.
"""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.model.config import ModelConfig
from soler1_jax.model.patches import Patches, pack_patches


def picture_layout(config: ModelConfig, grid: tuple[int, int, int]) -> Patches:
    """Where the patches of one picture lie; its values are zeros.

    Args:
      config: of the model.
      grid: patches: 1, rows, columns.
    """
    blank = np.zeros((int(np.prod(grid)), config.vision.patch_values), np.float32)
    return pack_patches(blank, np.array([grid[1:]]), config.vision)


def fill_layout(layout: Patches, values: jax.Array) -> Patches:
    """M pictures [M, P, I] in the layout of one."""
    count, patches = values.shape[:2]
    more = layout.mask.shape[1] - patches
    spread = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (count, *x.shape[1:])), layout._replace(values=())
    )
    return spread._replace(values=jnp.pad(values, ((0, 0), (0, more), (0, 0))))
