"""Episodes kept for looking at: frames, progress, truth, thoughts, in one .npz file.

frames     uint8 [T, H, W, 3]   external view
wrist      uint8 [T, h, w, 3]   optional
predicted  float32 [T]          percent, interpolated between queries
true       float32 [T]          percent; NaN where unknown
thoughts   str [T]              "" where the rewarder was not asked
task       str                  the task in words
success    bool                 true success; absent if unknown
title      str                  optional, what to call the episode
"""

import dataclasses
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.run import write_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeView:
    """One episode to show; shapes and units are in the module docstring."""

    frames: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    thoughts: Sequence[str]
    task: str
    wrist: np.ndarray | None = None
    success: bool | None = None
    title: str = ""

    def __post_init__(self) -> None:
        """Raises UserError unless all parts have one length."""
        count = len(self.frames)
        lengths = {
            "predicted": len(self.predicted),
            "true": len(self.true),
            "thoughts": len(self.thoughts),
        }
        if self.wrist is not None:
            lengths["wrist"] = len(self.wrist)
        for name, length in lengths.items():
            if length != count:
                raise UserError(
                    f"an episode has one entry a frame; {name} has {length}, "
                    f"frames {count}; make the episode again"
                )

    @property
    def queries(self) -> list[int]:
        """Frames at which the rewarder was asked and spoke."""
        return [t for t, thought in enumerate(self.thoughts) if thought.strip()]


def save_episode(path: Path | str, episode: EpisodeView) -> None:
    """Writes an .npz file whole or not at all."""
    arrays = {
        "frames": np.asarray(episode.frames, np.uint8),
        "predicted": np.asarray(episode.predicted, np.float32),
        "true": np.asarray(episode.true, np.float32),
        "thoughts": np.asarray(list(episode.thoughts), np.str_),
        "task": np.asarray(episode.task),
        "title": np.asarray(episode.title),
    }
    if episode.wrist is not None:
        arrays["wrist"] = np.asarray(episode.wrist, np.uint8)
    if episode.success is not None:
        arrays["success"] = np.asarray(episode.success)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(Path(path), buffer.getvalue())


def load_episode(path: Path | str) -> EpisodeView:
    """Reads an .npz file.

    Raises:
      UserError: it is not whole, or lacks a key.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        thoughts = [str(t) for t in arrays["thoughts"]]
        if len(thoughts) == len(arrays["frames"]) - 1:
            thoughts = ["", *thoughts]
        return EpisodeView(
            frames=arrays["frames"],
            predicted=arrays["predicted"],
            true=arrays["true"],
            thoughts=thoughts,
            task=str(arrays["task"]),
            wrist=arrays.get("wrist"),
            success=bool(arrays["success"]) if "success" in arrays else None,
            title=str(arrays.get("title", "")) or Path(path).stem,
        )
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"an episode file must be whole; {path} is not ({error}); "
            "remove it or run the command that made it again"
        ) from error
