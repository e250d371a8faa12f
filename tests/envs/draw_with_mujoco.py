"""Draws scenes with MuJoCo's own offscreen renderer, in a process of its own.

MuJoCo chooses its OpenGL back end when it is first imported, which the test process has
long done. Called as `draw_with_mujoco.py MODEL.mjb REQUEST.npz ANSWER.npz`. The request
holds `qpos` [N, nq], `size`, `views` (camera names), any field of MjModel as
`model/<field>` [N, ...] and perhaps `ambient` [N], the light from everywhere; the answer
holds `rgb`, `depth` and `ids` [N, V, size, size].
"""

import os
import sys

os.environ["MUJOCO_GL"] = "osmesa"

import mujoco
import numpy as np


def draw(model: mujoco.MjModel, request: dict[str, np.ndarray]) -> dict:
    """Return the pictures of all requested worlds and views."""
    size, data = int(request["size"]), mujoco.MjData(model)
    answer = {"rgb": [], "depth": [], "ids": []}
    for world, qpos in enumerate(request["qpos"]):
        for name, values in request.items():
            if name.startswith("model/"):
                getattr(model, name.removeprefix("model/"))[:] = values[world]
        if "ambient" in request:
            model.vis.headlight.ambient[:] = request["ambient"][world]
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        # textures of colour and light are read when a renderer is made
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
    model_path, request_path, answer_path = sys.argv[1:]
    loaded = mujoco.MjModel.from_binary_path(model_path)
    np.savez(answer_path, **draw(loaded, dict(np.load(request_path))))
