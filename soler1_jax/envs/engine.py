"""MuJoCo's MJX, imported without its printed notice that Warp is not installed.

Warp is optional: it is only what the renderer is timed beside.
"""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from mujoco import mjx

__all__ = ["mjx"]
