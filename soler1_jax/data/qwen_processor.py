"""A Qwen checkpoint's way from messages and pictures to what the model takes.

Reads the small files of a Hugging Face folder. Both layouts are known: one file for
each part (transformers 4) and one `processor_config.json` with all (transformers 5).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.data import qwen_images
from soler1_jax.data.patches import PatchConfig, VideoConfig
from soler1_jax.data.resize import Arithmetic
from soler1_jax.tokenizers.chat import ChatTemplate, Message, read_chat_template
from soler1_jax.tokenizers.qwen import QwenTokenizer, read_json
from soler1_jax.tokenizers.slots import VideoSlot, expand_slots, patch_times

_BICUBIC = 3
_VIDEO_KEYS = {
    "fps": "fps",
    "min_frames": "min_frames",
    "max_frames": "max_frames",
    "cap_pixels_per_frame": "cap_frame_pixels",
    "max_video_tokens": "max_frame_tokens",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """The frames of a video that the model is shown.

    Attributes:
      frames: uint8 [T, H, W, 3].
      indices: their numbers in the source video, T, ascending.
      source_fps: its frames a second.
    """

    frames: np.ndarray
    indices: Sequence[int] | np.ndarray
    source_fps: float

    def __post_init__(self) -> None:
        if len(self.indices) != len(self.frames):
            raise UserError(
                f"every frame has a number; got {len(self.frames)} frames and "
                f"{len(self.indices)} indices; give as many"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the model takes for one conversation.

    Attributes:
      text: the prompt that was encoded.
      ids: int32 [L].
      image_patches: float32 [N, D], all images one after the other.
      image_grids: int32 [I, 3], t, h, w of each.
      video_patches: float32 [M, D].
      video_grids: int32 [V, 3].
    """

    text: str
    ids: np.ndarray
    image_patches: np.ndarray
    image_grids: np.ndarray
    video_patches: np.ndarray
    video_grids: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenProcessor:
    """Tokenizer, chat template and picture rules of one checkpoint."""

    tokenizer: QwenTokenizer
    template: ChatTemplate
    image: PatchConfig
    video: VideoConfig

    def __call__(
        self,
        messages: Sequence[Message],
        images: Sequence[np.ndarray] = (),
        videos: Sequence[VideoFrames] = (),
        *,
        add_generation_prompt: bool = True,
        add_vision_id: bool = False,
        keep_video_wrapper: bool = True,
    ) -> Inputs:
        """Prepares one conversation on the host.

        Args:
          messages: the turns; see `tokenizers.chat`.
          images: uint8 [H, W, 3], in the order in which the messages name them.
          videos: likewise; `qwen_images.sample_frames` chooses frames.
          add_generation_prompt: let the assistant speak next.
          add_vision_id: number the images and videos in the text.
          keep_video_wrapper: see `tokenizers.slots.expand_slots`.

        Raises:
          UserError: a message or a picture is not as it should be, or they do not
            match in number.
        """
        text = self.template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            add_vision_id=add_vision_id,
        )
        image_rows, image_grids = qwen_images.image_patches(images, self.image)
        video_rows, video_grids = qwen_images.video_patches(
            [video.frames for video in videos], self.video
        )
        z = self.video.temporal_patch_size
        slots = [
            VideoSlot(
                grid=tuple(grid.tolist()),
                times=patch_times(video.indices, video.source_fps, z),
            )
            for video, grid in zip(videos, video_grids, strict=True)
        ]
        text = expand_slots(
            text,
            image_grids,
            slots,
            merge_size=self.image.merge_size,
            keep_video_wrapper=keep_video_wrapper,
        )
        return Inputs(
            text=text,
            ids=np.array(self.tokenizer.encode(text), np.int32),
            image_patches=image_rows,
            image_grids=image_grids,
            video_patches=video_rows,
            video_grids=video_grids,
        )


def load_processor(
    folder: str | Path, arithmetic: Arithmetic = "torchvision"
) -> QwenProcessor:
    """Reads a checkpoint's processor.

    Args:
      folder: holds tokenizer.json, preprocessor_config.json or processor_config.json,
        and if it likes video_preprocessor_config.json, tokenizer_config.json and a
        chat template.
      arithmetic: whose resize to follow; see `resize`.

    Raises:
      UserError: a file is missing or invalid, or two of them contradict each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"a checkpoint is a folder; {folder} is not one; check the path"
        )
    tokenizer = QwenTokenizer(folder)
    image, video = read_patch_configs(folder, arithmetic)
    _check_model(folder, tokenizer, image)
    return QwenProcessor(
        tokenizer=tokenizer,
        template=read_chat_template(folder),
        image=image,
        video=video,
    )


def read_patch_configs(
    folder: str | Path, arithmetic: Arithmetic = "torchvision"
) -> tuple[PatchConfig, VideoConfig]:
    """Reads how images and videos are cut; see `load_processor`.

    A folder without a video config cuts videos by its image config, as transformers
    does.
    """
    folder = Path(folder)
    shared = folder / "processor_config.json"
    nested = read_json(shared, optional=True)
    image_path, image = shared, nested.get("image_processor")
    if image is None:
        image_path = folder / "preprocessor_config.json"
        image = read_json(image_path)
    video_path, video = shared, nested.get("video_processor")
    if video is None:
        video_path = folder / "video_preprocessor_config.json"
        video = read_json(video_path, optional=True)
    if not video:
        video_path, video = image_path, image
    extra = {
        ours: video[theirs]
        for theirs, ours in _VIDEO_KEYS.items()
        if video.get(theirs) is not None
    }
    image_config = _parsed(PatchConfig, image, image_path, arithmetic=arithmetic)
    video_config = _parsed(
        VideoConfig, video, video_path, arithmetic=arithmetic, **extra
    )
    for name in ("patch_size", "temporal_patch_size", "merge_size"):
        ours, theirs = getattr(image_config, name), getattr(video_config, name)
        if ours != theirs:
            raise UserError(
                f"images and videos are cut alike; {name} is {ours} in {image_path} "
                f"and {theirs} in {video_path}; take both from one checkpoint"
            )
    return image_config, video_config


def _parsed(
    kind: type[PatchConfig], found: Mapping[str, Any], path: Path, **extra: Any
) -> PatchConfig:
    """A config of either kind from the names that transformers gives."""
    for key, wanted in (
        ("do_rescale", True),
        ("do_normalize", True),
        ("resample", _BICUBIC),
    ):
        if found.get(key, wanted) != wanted:
            raise UserError(
                f"Qwen pictures are resized with a bicubic filter, rescaled and "
                f"normalised; {path} has {key} {found[key]}; set it to {wanted}"
            )
    size = found.get("size") or {}
    values = {
        "patch_size": found.get("patch_size"),
        "temporal_patch_size": found.get("temporal_patch_size"),
        "merge_size": found.get("merge_size"),
        "min_pixels": found.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": found.get("max_pixels") or size.get("longest_edge"),
        "mean": found.get("image_mean"),
        "std": found.get("image_std"),
    }
    # The reference would put Qwen2-VL's values in their place: other patches, other
    # colours, and no sign of it.
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise UserError(
            f"a picture config states {', '.join(values)}; {path} lacks "
            f"{', '.join(missing)}; copy it from the checkpoint again"
        )
    try:
        values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
        return kind(
            **values,
            resize=found.get("do_resize", True),
            rescale=found.get("rescale_factor", 1 / 255),
            **extra,
        )
    except TypeError as error:
        raise UserError(
            f"a picture config holds numbers; {path} does not ({error}); "
            "copy it from the checkpoint again"
        ) from error
    except UserError as error:
        raise UserError(f"{error} ({path})") from error


def _check_model(folder: Path, tokenizer: QwenTokenizer, image: PatchConfig) -> None:
    """Raises UserError where the model's own config contradicts its processor's."""
    config = read_json(folder / "config.json", optional=True)
    vision = config.get("vision_config") or {}
    pairs = {
        "patch_size": (vision.get("patch_size"), image.patch_size),
        "spatial_merge_size": (vision.get("spatial_merge_size"), image.merge_size),
        "temporal_patch_size": (
            vision.get("temporal_patch_size"),
            image.temporal_patch_size,
        ),
        "image_token_id": (config.get("image_token_id"), tokenizer.image_pad_id),
        "video_token_id": (config.get("video_token_id"), tokenizer.video_pad_id),
    }
    for name, (model, processor) in pairs.items():
        if model is not None and model != processor:
            raise UserError(
                f"model and processor must agree; {name} is {model} in config.json "
                f"and {processor} for the processor under {folder}; take all files "
                "from one checkpoint"
            )
