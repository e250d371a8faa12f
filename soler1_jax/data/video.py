"""Frames from what people have: video files, picture folders, numpy arrays.

Frames are uint8 RGB [H, W, 3]. A `Video` is read as a stream, so a long one does not
have to fit into memory: it is decoded once for the frames that a rewarder is asked
about and once more if something is drawn on it. T frames in the file, N sampled.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from soler1_jax.common.errors import UserError, nearest_hint

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
HDF5 = (".hdf5", ".h5")
# How a frame holds the camera views.
LAYOUTS = ("external", "wrist", "both-split")


@dataclasses.dataclass(frozen=True)
class Video:
    """A readable video.

    Attributes:
      path: the file or folder.
      count: T, number of frames.
      fps: frames a second, or None where nothing says so (pictures, arrays).
      frames: makes an iterator over uint8 [H, W, 3], from the first frame.
    """

    path: Path
    count: int
    fps: float | None
    frames: Callable[[], Iterator[np.ndarray]]

    def pick(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Decodes chosen frames one after the other: uint8 [H, W, 3].

        Args:
          indices: ascending frame indices [N].

        Raises:
          UserError: decoding stops before the last of them.
        """
        got = 0
        wanted = iter(indices.tolist())
        due = next(wanted, None)
        for t, frame in enumerate(self.frames()):
            got = t + 1
            while t == due:
                yield frame
                due = next(wanted, None)
            if due is None:
                return
        raise _half_written(self.path, got, self.count)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """All of `pick` at once: uint8 [N, H, W, 3]."""
        return np.stack(list(self.pick(indices)))


def open_video(path: Path | str) -> Video:
    """Opens a video file, a folder of pictures, or an array of frames.

    Pictures are ordered by the numbers in their names. Arrays are [T, H, W, 3], uint8
    or float in [0, 1], in a .npy, .npz or .hdf5 file; the last two hold them under
    `frames`. Another dataset of an HDF5 file is named behind it, FILE::DATASET.

    Raises:
      UserError: missing, unreadable, half-written, or without a frame.
    """
    path = Path(path)
    name, _, dataset = str(path).partition("::")
    if dataset and Path(name).suffix in HDF5 and Path(name).is_file():
        return _with_frames(_open_hdf5(path, Path(name), dataset))
    if not path.exists():
        raise UserError(f"a video is needed; {path} does not exist; check the path")
    if path.is_dir():
        video = _open_folder(path)
    elif path.stat().st_size == 0:
        raise UserError(f"a video must hold frames; {path} is an empty file; remake it")
    elif path.suffix in (".npy", ".npz"):
        video = _open_array(path)
    elif path.suffix in HDF5:
        video = _open_hdf5(path, path, "frames")
    else:
        video = _open_file(path)
    return _with_frames(video)


def _with_frames(video: Video) -> Video:
    if not video.count:
        raise UserError(
            f"a video must hold frames; {video.path} has none; record it again"
        )
    return video


def sample(
    total: int,
    source_fps: float | None = None,
    fps: float | None = None,
    count: int | None = None,
) -> np.ndarray:
    """Chooses the frames that a rewarder is shown.

    By count: evenly from the first to the last frame, rounded down. By rate: every
    max(1, round(source_fps / fps))-th frame from the first. A source without a rate
    is taken whole.

    Args:
      total: T.
      source_fps: the video's frames a second, or None.
      fps: frames a second to show; not together with `count`.
      count: frames to show, 2 or more; all if the video has fewer.

    Returns:
      Ascending int64 [N], the first is 0; N >= 2 unless there is one frame only.

    Raises:
      UserError: both or neither given, or a value out of range.
    """
    if (fps is None) == (count is None):
        raise UserError(
            "frames are chosen by rate or by number; "
            f"got fps {fps} and count {count}; give one of --fps and --count"
        )
    if count is not None:
        if count < 2:
            raise UserError(
                f"count must be 2 or more (first and later); got {count}; raise --count"
            )
        return np.linspace(0, total - 1, min(count, total)).astype(np.int64)
    if not fps > 0:
        raise UserError(f"fps must be positive; got {fps}; give more than 0")
    stride = max(1, round(source_fps / fps)) if source_fps else 1
    indices = np.arange(0, total, stride)
    # A video shorter than one stride still has an end to be judged.
    return indices if len(indices) > 1 else np.unique([0, total - 1])


def split_views(frames: np.ndarray, layout: str) -> dict[str, np.ndarray]:
    """Names the camera views in frames.

    Args:
      frames: uint8 [..., H, W, 3].
      layout: "external" or "wrist": the whole frame is that view; "both-split": the
        left half is external, the right half wrist.

    Returns:
      view -> uint8 [..., H, W or W // 2, 3].

    Raises:
      UserError: another layout.
    """
    if layout not in LAYOUTS:
        raise UserError(
            f"views say how a frame is laid out; got {layout!r}"
            f"{nearest_hint(layout, LAYOUTS)}"
        )
    if layout != "both-split":
        return {layout: frames}
    half, odd = divmod(frames.shape[-2], 2)
    if odd:
        raise UserError(
            "two cameras side by side have equal halves; a frame is "
            f"{frames.shape[-2]} pixels wide; crop it, or give --views external"
        )
    return {
        "external": frames[..., :half, :],
        "wrist": frames[..., half : 2 * half, :],
    }


def letterbox(frames: np.ndarray, size: int) -> np.ndarray:
    """Fits frames into black squares without changing their proportions.

    Sides are scaled by size / max(H, W), rounded down, each new pixel being the mean
    of the area it covers; offsets are rounded down (the reference's tiles,
    arXiv 2603.28730 code release, keep the same rules).

    Args:
      frames: uint8 [..., H, W, 3].
      size: side of the square in pixels.

    Returns:
      uint8 [..., size, size, 3].
    """
    height, width = frames.shape[-3:-1]
    if (height, width) == (size, size):
        return frames
    scale = size / max(height, width)
    new_height, new_width = max(1, int(height * scale)), max(1, int(width * scale))
    rows, columns = _coverage(height, new_height), _coverage(width, new_width)
    canvas = np.zeros((*frames.shape[:-3], size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    small = np.einsum(
        "oh,...hwc->...owc", rows, frames.astype(np.float32), optimize=True
    )
    small = np.einsum("pw,...owc->...opc", columns, small, optimize=True)
    canvas[..., top : top + new_height, left : left + new_width, :] = np.rint(small)
    return canvas


@functools.cache
def _coverage(old: int, new: int) -> np.ndarray:
    """Share of each old pixel in each new one, float32 [new, old]; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    starts = np.maximum(edges[:-1, None], np.arange(old))
    ends = np.minimum(edges[1:, None], np.arange(1, old + 1))
    return (np.maximum(ends - starts, 0.0) * (new / old)).astype(np.float32)


def _half_written(path: Path, got: int, declared: int) -> UserError:
    return UserError(
        f"a video must be whole; {path} breaks off after {got} of {declared} frames; "
        "copy or record it again"
    )


def _open_file(path: Path) -> Video:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(
                    f"a video is needed; {path} has no pictures or is half-written; "
                    "copy or record it again"
                )
            stream = container.streams.video[0]
            declared = stream.frames
            fps = float(stream.average_rate) if stream.average_rate else None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    frames = functools.partial(_decode, path, declared)
    # Some containers do not say how many frames they hold.
    count = declared or sum(1 for _ in frames())
    return Video(path, count, fps, frames)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"a video must be readable; {path} is not, or is half-written ({reason}); "
        "give an mp4, mkv, gif, a folder of pictures, .npy, .npz or .hdf5"
    )


def _decode(path: Path, declared: int) -> Iterator[np.ndarray]:
    import av

    got = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
                got += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        if declared and got:
            raise _half_written(path, got, declared) from error
        raise _unreadable(path, error) from error
    if got < declared:
        raise _half_written(path, got, declared)


def _open_folder(path: Path) -> Video:
    files = sorted(
        (f for f in path.iterdir() if f.suffix.lower() in PICTURES), key=_number_key
    )
    if not files:
        raise UserError(
            f"a folder of pictures is needed; {path} has none; "
            f"name them 0.png, 1.png, … ({', '.join(PICTURES)})"
        )
    return Video(path, len(files), None, functools.partial(_read_pictures, files))


def _number_key(path: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name


def _read_pictures(files: list[Path]) -> Iterator[np.ndarray]:
    from PIL import Image

    shape = None
    for file in files:
        try:
            with Image.open(file) as picture:
                frame = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"a picture must be readable; {file} is not ({error}); remake it"
            ) from error
        shape = shape or frame.shape
        if frame.shape != shape:
            raise UserError(
                f"pictures of a video have one size; {file} is {frame.shape[1]}x"
                f"{frame.shape[0]}, the first {shape[1]}x{shape[0]}; make them equal"
            )
        yield frame


def _open_array(path: Path) -> Video:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        if path.suffix == ".npz" and "frames" not in loaded:
            raise UserError(
                f"an .npz video needs the key frames; {path} has "
                f"{', '.join(loaded.files) or 'none'}; save it with frames="
            )
        array = loaded if path.suffix == ".npy" else loaded["frames"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # zipfile's errors are not among the ones above
        if isinstance(error, UserError):
            raise
        raise _unreadable(path, error) from error
    return _array_video(path, array, functools.partial(_convert, array))


def _open_hdf5(path: Path, file_path: Path, name: str) -> Video:
    """Opens a dataset of a file; `path` is what the user wrote."""
    import h5py

    try:
        with h5py.File(file_path, "r") as file:
            found = file.get(name)
            if not isinstance(found, h5py.Dataset):
                raise UserError(
                    f"an HDF5 video needs the dataset {name}; {file_path} has "
                    f"{_listed(file)}; name one as {file_path.name}::DATASET"
                )
            frames = functools.partial(_read_hdf5, file_path, name)
            return _array_video(path, found, frames)
    except OSError as error:
        raise _unreadable(file_path, error) from error


def _listed(file: Any) -> str:
    """The datasets of an HDF5 file that could be a camera's frames, or else all."""
    every: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            every[name] = item.shape

    file.visititems(visit)
    cameras = [n for n, shape in every.items() if len(shape) == 4 and shape[-1] == 3]
    names = cameras or list(every)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more


def _read_hdf5(path: Path, name: str) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        yield from _convert(file[name])


def _array_video(
    path: Path, array: Any, frames: Callable[[], Iterator[np.ndarray]]
) -> Video:
    """Checks an array's form; raises UserError."""
    number = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    if array.ndim != 4 or array.shape[-1] != 3 or not number:
        raise UserError(
            "an array video is [T, H, W, 3], uint8 or float in [0, 1]; "
            f"{path} is {array.dtype} {list(array.shape)}; convert it"
        )
    return Video(path, len(array), None, frames)


def _convert(array: Any) -> Iterator[np.ndarray]:
    for frame in array:
        if array.dtype != np.uint8:
            frame = np.rint(np.clip(frame, 0.0, 1.0) * 255)
        yield np.asarray(frame, np.uint8)
