"""How read-out rewarders look at an episode: through one camera, at all of it so far.

Letters: B episodes, N frames shown, P places of a prompt.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data.resize import resize
from soler1_jax.model.patches import Patches
from soler1_jax.model.prefix import Prefix
from soler1_jax.model.vlm import VLM
from soler1_jax.reward.film import Around, Film, Frame, lay_out, make_film
from soler1_jax.reward.history import History, choose
from soler1_jax.reward.pictures import fill_layout, picture_layout
from soler1_jax.reward.pretrained import PretrainedVLM

_VIEWS = ("external", "wrist")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What a read-out rewarder is shown.

    Attributes:
      view: external or wrist.
      frames: N, the most frames in a prompt, evenly spread from the first to the current
        one; Robometer was trained on 8.
      capacity: frames that are remembered one by one, an even number, at least N; see
        `history`.
      image_size: side in pixels of the square frames that a simulator renders for it.
      short_side: larger frames of a video are reduced to so many pixels on their shorter
        side, as Robometer's training clips were.
    """

    view: str = "external"
    frames: int = 8
    capacity: int = 64
    image_size: int = 256
    short_side: int = 240

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        for name in ("frames", "image_size", "short_side"):
            require_positive(name, getattr(self, name))
        if self.view not in _VIEWS:
            raise UserError(
                f"a read-out rewarder looks through one of {', '.join(_VIEWS)}; got "
                f"{self.view!r}; choose one"
            )
        if self.capacity % 2 or self.capacity < self.frames:
            raise UserError(
                f"capacity is an even number, {self.frames} or more as frames are; got "
                f"{self.capacity}; choose another"
            )


def fit(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Reduces frames uint8 [T, H, W, 3] to a shorter side of `short_side` at most."""
    height, width = frames.shape[-3:-1]
    scale = short_side / min(height, width)
    if scale >= 1:
        return frames
    size = (max(1, round(side * scale)) for side in (height, width))
    return resize(frames, *size, "pillow")


@dataclasses.dataclass(frozen=True)
class Screen:
    """How frames become pictures of a prompt.

    Attributes:
      frames: words around each of the pictures.
      pad: the token that stands for a picture in them.
      grid_of: height and width of frames -> its patches: 1, rows, columns.
      cut: frames uint8 [B, N, H, W, 3] -> patches float32 [B * pictures, ., .].
    """

    frames: tuple[Frame, ...]
    pad: str
    grid_of: Callable[[int, int], tuple[int, int, int]]
    cut: Callable[[jax.Array], jax.Array]


class Watcher:
    """Builds the prompt of all frames so far, inside jit."""

    def __init__(self, vlm: PretrainedVLM, screen: Screen, count: int) -> None:
        """`count` is N."""
        self.vlm, self.screen, self.count = vlm, screen, count
        self._films: dict[tuple[int, int], tuple[Film, Patches]] = {}

    def look(
        self, bound: VLM, history: History, around: Around, frames_each: int = 1
    ) -> tuple[Prefix, jax.Array]:
        """Shows what is remembered.

        Args:
          bound: the model with its parameters.
          history: of B episodes.
          around: heads and tails of their prompts.
          frames_each: frames in a picture.

        Returns:
          The decoder's prefix, and int32 [B], the place in it that closes the last frame
          shown.
        """
        frames, shown = choose(history, self.count)
        shown = -(-shown // frames_each)
        film, layout = self._film(*frames.shape[2:4])
        patches = fill_layout(layout, self.screen.cut(frames))
        prompt = lay_out(around, film, shown)
        prefix = bound.mix(prompt, bound.encode_patches(patches))
        return prefix, around.head.shape[1] + jnp.asarray(film.ends)[shown - 1]

    def _film(self, height: int, width: int) -> tuple[Film, Patches]:
        """The frames' part of a prompt for frames of one size, made once."""
        if (height, width) not in self._films:
            self._films[height, width] = self._make_film(height, width)
        return self._films[height, width]

    def _make_film(self, height: int, width: int) -> tuple[Film, Patches]:
        grid = self.screen.grid_of(height, width)
        layout = picture_layout(self.vlm.config, grid)
        merge = self.vlm.config.vision.spatial_merge_size
        film = make_film(
            self.vlm.config,
            self.vlm.tokenizer,
            self.screen.frames,
            self.screen.pad,
            (grid[1] // merge, grid[2] // merge),
            layout.mask.shape[1] // merge**2,
        )
        return film, layout
