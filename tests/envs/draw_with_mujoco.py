"""Draws scenes with MuJoCo's own offscreen renderer, in a process of its own.

MuJoCo chooses its OpenGL back end when it is first imported, which the test process has
long done. Called as `draw_with_mujoco.py FOLDER`, which holds `0.mjb`, `1.mjb` ... (N
worlds) and `request.npz` with `qpos` [N, nq], `size` and `views` (V names of cameras).
Writes `answer.npz` with `rgb`, `depth` and geom `ids` [N, V, size, size], -1 for sky.
"""

import os
import sys
from pathlib import Path

os.environ["MUJOCO_GL"] = "osmesa"

import mujoco
import numpy as np


def draw(folder: Path, request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pictures of all worlds and views."""
    size, answer = int(request["size"]), {"rgb": [], "depth": [], "ids": []}
    for world, qpos in enumerate(request["qpos"]):
        model = mujoco.MjModel.from_binary_path(str(folder / f"{world}.mjb"))
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        renderer = mujoco.Renderer(model, size, size)
        for view in request["views"]:
            renderer.update_scene(data, camera=str(view))
            answer["rgb"].append(renderer.render())
            renderer.enable_depth_rendering()
            answer["depth"].append(renderer.render())
            renderer.disable_depth_rendering()
            renderer.enable_segmentation_rendering()
            ids, kind = np.moveaxis(renderer.render(), -1, 0)
            renderer.disable_segmentation_rendering()
            is_geom = kind == int(mujoco.mjtObj.mjOBJ_GEOM)
            answer["ids"].append(np.where(is_geom, ids, -1))
        renderer.close()
    shape = (len(request["qpos"]), len(request["views"]), size, size)
    return {
        name: np.stack(pictures).reshape(*shape, *pictures[0].shape[2:])
        for name, pictures in answer.items()
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    np.savez(place / "answer.npz", **draw(place, dict(np.load(place / "request.npz"))))
