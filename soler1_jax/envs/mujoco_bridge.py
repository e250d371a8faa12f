"""A world as plain MuJoCo sees it: for pictures, oracles and interactive viewers.

Host side; not for use inside jit.
"""

import mujoco
import numpy as np

from soler1_jax.envs import model
from soler1_jax.envs.base import State

_FIELDS = (
    "body_pos",
    "body_quat",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "geom_rgba",
    "jnt_axis",
    "jnt_range",
    "jnt_stiffness",
    "dof_damping",
)


def to_mujoco(state: State) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Return the model and data of one world, with kinematics done.

    Cameras "external" and "wrist", light and colours are the world's own, so that
    `mujoco.Renderer` draws what `Tabletop.render` draws.

    Args:
      state: one world (no leading axis).

    Raises:
      ValueError: the state holds a batch of worlds.
    """
    if np.ndim(state.done) != 0:
        raise ValueError(
            f"one world at a time; got a batch of shape {np.shape(state.done)}; "
            "index the state first"
        )
    scene = state.info["scene"]
    out = model.new_mujoco_model()
    for name in _FIELDS:
        getattr(out, name)[:] = np.asarray(getattr(scene, name))
    # MuJoCo notes at compile time which frames coincide; here they no longer do.
    out.geom_sameframe[:] = 0
    out.body_sameframe[:] = 0
    out.light_dir[0] = np.asarray(scene.light_direction)
    out.light_diffuse[0] = float(scene.light_diffuse)
    out.light_ambient[0] = float(scene.light_ambient)
    for index, view in enumerate(model.VIEWS):
        camera = model.ids().camera[view]
        out.cam_pos[camera] = np.asarray(scene.camera_pos[index])
        quat = np.zeros(4)
        mat = np.asarray(scene.camera_mat[index], np.float64).reshape(9)
        mujoco.mju_mat2Quat(quat, mat)
        out.cam_quat[camera] = quat
        out.cam_fovy[camera] = float(scene.camera_fovy[index])
    data = mujoco.MjData(out)
    data.qpos[:] = np.asarray(state.data.qpos)
    data.qvel[:] = np.asarray(state.data.qvel)
    data.ctrl[:] = np.asarray(state.data.ctrl)
    mujoco.mj_forward(out, data)
    return out, data
