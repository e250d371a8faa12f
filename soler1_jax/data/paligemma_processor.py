"""A PaliGemma checkpoint's way from a sentence and pictures to what the model takes.

A prompt is the pictures' placeholders, the beginning, the sentence, and a line end. A
picture is resized to a square, whatever its shape, and scaled to [-1, 1].

Source: PaliGemma (arXiv 2407.07726), section 3.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data.patches import PatchConfig, normalise
from soler1_jax.data.resize import Arithmetic, resize, resize_on_device
from soler1_jax.tokenizers.gemma import IMAGE, GemmaTokenizer
from soler1_jax.tokenizers.qwen import read_json

_BICUBIC = 3
_COLOURS = PatchConfig()
"""Mean and standard deviation 0.5, as SigLIP's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """How pictures become squares.

    Attributes:
      size: S, side in pixels.
      tokens: K, placeholders of a picture.
      arithmetic: whose rounding the resize follows; see `resize`.
    """

    size: int
    tokens: int
    arithmetic: Arithmetic = "torchvision"

    def __post_init__(self) -> None:
        require_positive("size", self.size)
        if self.tokens < 1 or math.isqrt(self.tokens) ** 2 != self.tokens:
            raise UserError(
                f"a square picture has a square number of tokens; got {self.tokens}; "
                "correct image_seq_length"
            )


def square_pixels(images: Sequence[np.ndarray], config: SquareConfig) -> np.ndarray:
    """Resizes and scales pictures on the host.

    Args:
      images: M pictures, uint8 [H, W, 3] of any sizes.
      config: size and rounding.

    Returns:
      float32 [M, 3, S, S] in [-1, 1].

    Raises:
      UserError: a picture is not uint8 RGB.
    """
    size, rows = config.size, [np.zeros((0, 3, config.size, config.size), np.float32)]
    for image in images:
        image = np.asarray(image)
        _check(image.shape, image.dtype, image.ndim == 3)
        small = resize(image, size, size, config.arithmetic)
        rows.append(np.moveaxis(normalise(small, _COLOURS), -1, 0)[None])
    return np.concatenate(rows)


def square_frames_on_device(images: jax.Array, config: SquareConfig) -> jax.Array:
    """Resizes pictures inside jit to what `VLM.encode` takes.

    Args:
      images: uint8 [..., H, W, 3].
      config: size and rounding, static.

    Returns:
      uint8 [..., S, S, 3].
    """
    _check(images.shape, images.dtype, images.ndim >= 3)
    return resize_on_device(images, config.size, config.size, config.arithmetic)


def square_pixels_on_device(images: jax.Array, config: SquareConfig) -> jax.Array:
    """Resizes and scales pictures inside jit; the same numbers as `square_pixels`.

    Args:
      images: uint8 [..., H, W, 3].
      config: size and rounding, static.

    Returns:
      float32 [..., 3, S, S] in [-1, 1].
    """
    small = square_frames_on_device(images, config)
    return jnp.moveaxis(normalise(small, _COLOURS), -1, -3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the model takes for one prompt.

    Attributes:
      text: the prompt that was encoded.
      ids: int32 [L].
      pixel_values: float32 [M, 3, S, S], its pictures.
    """

    text: str
    ids: np.ndarray
    pixel_values: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaliGemmaProcessor:
    """Tokenizer and picture rules of one checkpoint."""

    tokenizer: GemmaTokenizer
    image: SquareConfig

    def __call__(self, text: str, images: Sequence[np.ndarray] = ()) -> Inputs:
        """Prepares one prompt on the host.

        Args:
          text: the sentence; `<image>` marks in it say where pictures go, without any
            they come first.
          images: uint8 [H, W, 3].

        Raises:
          UserError: a picture is not uint8 RGB, or there are more or fewer than marks.
        """
        whole = self.prompt(text, len(images))
        return Inputs(
            text=whole,
            ids=np.array(self.tokenizer.encode(whole), np.int32),
            pixel_values=square_pixels(images, self.image),
        )

    def prompt(self, text: str, images: int = 0) -> str:
        """Writes a prompt for so many pictures; see `__call__`."""
        marks = text.count(IMAGE)
        if marks not in (0, images):
            raise UserError(
                f"a prompt has a {IMAGE} for each picture, or none at all; got {marks} "
                f"for {images}; leave them out or give as many"
            )
        text = text if marks else IMAGE * images + text
        # The beginning stands behind the last picture.
        place = text.rfind(IMAGE) + len(IMAGE) if images else 0
        before = text[:place].replace(IMAGE, IMAGE * self.image.tokens)
        return f"{before}{self.tokenizer.bos_token}{text[place:]}\n"

    def completion(self, text: str) -> np.ndarray:
        """Ids int32 [L] of an answer to learn from: the text and the end."""
        return np.array([*self.tokenizer.encode(text), self.tokenizer.eos_id], np.int32)


def load_paligemma_processor(
    folder: str | Path, arithmetic: Arithmetic = "torchvision"
) -> PaliGemmaProcessor:
    """Reads a checkpoint's processor.

    Args:
      folder: holds tokenizer.json or tokenizer.model, and preprocessor_config.json
        (transformers 4) or processor_config.json (transformers 5).
      arithmetic: whose resize to follow; see `resize`.

    Raises:
      UserError: a file is missing or invalid, or two of them contradict each other.
    """
    folder = Path(folder)
    tokenizer = GemmaTokenizer(folder)
    if tokenizer.image_id is None:
        raise UserError(
            f"a PaliGemma tokenizer has {IMAGE} as an added token; that of {folder} has "
            "not; take all files of its checkpoint"
        )
    image = _read_square(folder, arithmetic)
    _check_model(folder, tokenizer, image)
    return PaliGemmaProcessor(tokenizer=tokenizer, image=image)


def _read_square(folder: Path, arithmetic: Arithmetic) -> SquareConfig:
    path = folder / "processor_config.json"
    found = read_json(path, optional=True).get("image_processor")
    if found is None:
        path = folder / "preprocessor_config.json"
        found = read_json(path)
    for key, wanted in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("resample", _BICUBIC),
        ("rescale_factor", 1 / 255),
        ("image_mean", [0.5] * 3),
        ("image_std", [0.5] * 3),
    ):
        value = found.get(key, wanted)
        if value != wanted:
            raise UserError(
                "PaliGemma's pictures are resized with a bicubic filter and scaled to "
                f"[-1, 1]; {path} has {key} {value}; set it to {wanted}"
            )
    size = found.get("size") or {}
    sides = {size.get("height"), size.get("width")}
    tokens = found.get("image_seq_length")
    numbers = [*sides, tokens]
    if len(sides) != 1 or not all(isinstance(n, int) for n in numbers):
        raise UserError(
            "a picture config states one size for height and width, and "
            f"image_seq_length; {path} has {size} and {tokens}; copy it again"
        )
    return SquareConfig(size=sides.pop(), tokens=tokens, arithmetic=arithmetic)


def _check_model(folder: Path, tokenizer: GemmaTokenizer, image: SquareConfig) -> None:
    """Raises UserError where the model's own config contradicts its processor's."""
    config = read_json(folder / "config.json", optional=True)
    vision: Mapping[str, Any] = config.get("vision_config") or {}
    patch = vision.get("patch_size")
    pairs = {
        "image_token_index": (config.get("image_token_index"), tokenizer.image_id),
        "image_size": (vision.get("image_size"), image.size),
        "image_seq_length": (patch and (image.size // patch) ** 2, image.tokens),
    }
    for name, (model, processor) in pairs.items():
        if model is not None and model != processor:
            raise UserError(
                f"model and processor must agree; {name} is {model} in config.json "
                f"and {processor} for the processor under {folder}; take all files "
                "from one checkpoint"
            )


def _check(shape: Sequence[int], dtype: Any, has_rank: bool) -> None:
    if dtype != np.uint8 or not has_rank or shape[-1] != 3:
        raise UserError(
            f"pictures are uint8 RGB [H, W, 3]; got {dtype} {list(shape)}; convert them"
        )
