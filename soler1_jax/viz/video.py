"""Writes moving pictures: mp4 files, and film strips for pages.

Frames are uint8 [T, H, W, 3] RGB.
"""

import base64
import io
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from soler1_jax.common.errors import UserError, disk_errors, require_positive


def write_mp4(path: Path | str, frames: Iterable[np.ndarray], fps: float) -> int:
    """Encodes frames as h264, whole or not at all; returns their number.

    Args:
      path: the file; replaced if it is there.
      frames: uint8 [H, W, 3] of one size; odd sides lose their last row or column,
        since the encoder needs even ones.
      fps: frames a second.

    Raises:
      UserError: no frame, or the folder cannot be written.
    """
    import av

    require_positive("fps", fps)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, stream = 0, None
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with av.open(str(temporary), "w", format="mp4") as out:
                for frame in frames:
                    if stream is None:
                        rate = Fraction(fps).limit_denominator(1001)
                        stream = out.add_stream("libx264", rate=rate)
                        stream.height = frame.shape[0] // 2 * 2
                        stream.width = frame.shape[1] // 2 * 2
                        stream.pix_fmt = "yuv420p"
                        stream.options = {"crf": "20", "preset": "veryfast"}
                    even = np.ascontiguousarray(
                        frame[: stream.height, : stream.width], np.uint8
                    )
                    picture = av.VideoFrame.from_ndarray(even, format="rgb24")
                    out.mux(stream.encode(picture))
                    count += 1
                if stream is None:
                    raise UserError(f"a video needs frames; {path} got none; give some")
                out.mux(stream.encode())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return count


def film_strip(frames: np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3] side by side: [H, T * W, 3]."""
    count, height, width, _ = frames.shape
    return frames.transpose(1, 0, 2, 3).reshape(height, count * width, 3)


def png_uri(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a data: address, losslessly."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
