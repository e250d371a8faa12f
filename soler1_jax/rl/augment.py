"""Random shifts of images, the augmentation that makes pixel critics learn.

DrQ (arXiv 2004.13649): pad by repeating the border, then crop at a random place.
"""

import jax
import jax.numpy as jnp


def random_shift(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Shifts every image by up to `pad` pixels each way, its own draw for each.

    Args:
      images: [N, H, W, C], any dtype.
      pad: largest shift in pixels.

    Returns:
      The same shape; pixels that came from outside repeat the border.
    """
    count, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    offsets = jax.random.randint(key, (count, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)
