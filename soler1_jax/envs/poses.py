"""Where bodies and geoms are, from joint positions: forward kinematics of the tabletop.

The same numbers as `mjx.kinematics`, written out for this one tree: a step leaves poses
one integration behind positions, and bringing them up to date with the general function
takes a third of the environment's compile time.

Dimension letters: N bodies, G geoms, J joints. Units: metres, radians, world frame.
"""

import jax
import jax.numpy as jnp

from soler1_jax.envs import model
from soler1_jax.envs.engine import mjx
from soler1_jax.envs.scene import SceneParams

Array = jax.Array


def matrix_of_quat(quat: Array) -> Array:
    """Return rotations [..., 3, 3] of unit quaternions [..., 4] (w x y z)."""
    w, x, y, z = (quat[..., index] for index in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _turn(axis: Array, angle: Array) -> Array:
    """Return the rotation [3, 3] about a unit axis [3]."""
    half = jnp.stack([jnp.cos(angle / 2), jnp.sin(angle / 2)])
    return matrix_of_quat(jnp.concatenate([half[:1], half[1] * axis]))


def _fixture(
    scene: SceneParams, qpos: Array, name: str
) -> tuple[tuple[Array, Array], tuple[Array, Array], Array]:
    """Return (position, rotation) of base and part, and the joint's axis [3]."""
    ids = model.ids()
    joint = ids.joint[name]
    base, part = ids.body[f"{name}_base"], ids.body[f"{name}_part"]
    frame = matrix_of_quat(scene.body_quat[base])
    axis, travel = scene.jnt_axis[joint], qpos[joint]
    if name == "slide":
        local, turned = scene.body_pos[part] + axis * travel, frame
    else:
        local, turned = scene.body_pos[part], frame @ _turn(axis, travel)
    origin = scene.body_pos[base]
    return (origin, frame), (origin + frame @ local, turned), frame @ axis


def update(data: mjx.Data, scene: SceneParams) -> mjx.Data:
    """Return `data` with the poses that its joint positions imply.

    Sets xpos, xmat, geom_xpos, geom_xmat, and xaxis and xanchor of the fixtures' joints.
    """
    ids, qpos = model.ids(), data.qpos
    physics = model.mujoco_model()
    straight = jnp.eye(3)
    gripper = qpos[model.GRIPPER_Q]
    at: dict[str, tuple[Array, Array]] = {
        "world": (jnp.zeros(3), straight),
        "gripper": (gripper, straight),
        "plate": (scene.body_pos[ids.body["plate"]], straight),
    }
    for side, name in ((-1.0, "left"), (1.0, "right")):
        shift = side * (model.TIP_RADIUS + qpos[ids.joint[name]])
        at[name] = (gripper.at[0].add(shift), straight)
    up = jnp.asarray([0.0, 0.0, 1.0])
    for index, joints in enumerate(model.OBJECT_Q):
        name = f"object{index}"
        moved = scene.body_pos[ids.body[name]] + qpos[joints.start : joints.start + 3]
        at[name] = (moved, _turn(up, qpos[joints.stop - 1]))
    xaxis, xanchor = data.xaxis, data.xanchor
    for name in ("slide", "hinge"):
        at[f"{name}_base"], at[f"{name}_part"], axis = _fixture(scene, qpos, name)
        joint = ids.joint[name]
        xaxis = xaxis.at[joint].set(axis)
        xanchor = xanchor.at[joint].set(at[f"{name}_part"][0])
    order = sorted(ids.body, key=ids.body.get)
    xpos = jnp.stack([at[name][0] for name in order])
    xmat = jnp.stack([at[name][1] for name in order])
    body = physics.geom_bodyid
    shift = jnp.einsum("gij,gj->gi", xmat[body], scene.geom_pos)
    return data.replace(
        xpos=xpos,
        xmat=xmat,
        geom_xpos=xpos[body] + shift,
        geom_xmat=xmat[body] @ matrix_of_quat(scene.geom_quat),
        xaxis=xaxis,
        xanchor=xanchor,
    )
