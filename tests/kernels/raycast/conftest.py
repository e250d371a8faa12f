"""Random scenes of primitives, in MuJoCo's form and in the ray caster's."""

from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from soler1_jax.kernels.raycast.api import Geoms, GeomType, Rays

NAMES = {
    GeomType.SPHERE: "sphere",
    GeomType.CAPSULE: "capsule",
    GeomType.ELLIPSOID: "ellipsoid",
    GeomType.CYLINDER: "cylinder",
    GeomType.BOX: "box",
}
LIGHT = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])


class Scene(NamedTuple):
    """One scene: static types, geoms, rays, and MuJoCo's model and data of the same."""

    types: tuple[int, ...]
    geoms: Geoms
    rays: Rays
    light: np.ndarray
    model: mujoco.MjModel
    data: mujoco.MjData


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return columns right, up, backward of a camera."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


def rays_from(position: np.ndarray, target: np.ndarray, side: int) -> Rays:
    """Return side * side rays of a camera with 45 degrees of view."""
    half = np.tan(np.deg2rad(45) / 2)
    grid = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    basis = look_at(position, target) * np.array([1.0, 1.0, -1.0])
    return Rays(
        jnp.asarray(position, jnp.float32),
        jnp.asarray(basis, jnp.float32),
        jnp.asarray(np.tile(grid, side), jnp.float32),
        jnp.asarray(np.repeat(-grid, side), jnp.float32),
    )


def _scene(
    model: mujoco.MjModel,
    rng: np.random.Generator,
    side: int,
    corners: tuple[jnp.ndarray, ...] = (),
) -> Scene:
    """Return the scene of a model, seen from somewhere."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    geoms = Geoms(
        position=jnp.asarray(data.geom_xpos, jnp.float32),
        rotation=jnp.asarray(data.geom_xmat.reshape(-1, 3, 3), jnp.float32),
        size=jnp.asarray(model.geom_size, jnp.float32),
        rgba=jnp.asarray(model.geom_rgba, jnp.float32),
        visible=jnp.ones(model.ngeom, bool),
        meshes=corners,
    )
    angle = rng.uniform(0, 2 * np.pi)
    position = np.array([np.cos(angle), np.sin(angle), rng.uniform(0.7, 1.1)])
    rays = rays_from(position, np.array([0, 0, 0.15]), side)
    types = tuple(int(kind) for kind in model.geom_type)
    return Scene(types, geoms, rays, LIGHT, model, data)


def build(
    seed: int, count: int = 15, side: int = 24, only: GeomType | None = None
) -> Scene:
    """Return a scene of a floor and `count` primitives, all types in turn or `only`."""
    rng = np.random.default_rng(seed)
    kinds = [only or list(NAMES)[i % len(NAMES)] for i in range(count)]
    parts = ['<geom type="plane" size="0 0 1"/>']
    for kind in kinds:
        text = {
            name: " ".join(f"{value:.5f}" for value in values)
            for name, values in (
                ("size", rng.uniform(0.02, 0.08, 3)),
                ("pos", [*rng.uniform(-0.3, 0.3, 2), rng.uniform(0.1, 0.4)]),
                ("quat", rng.normal(size=4)),
            )
        }
        fields = " ".join(f'{name}="{value}"' for name, value in text.items())
        parts.append(f'<geom type="{NAMES[kind]}" {fields}/>')
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody>{''.join(parts)}</worldbody></mujoco>"
    )
    return _scene(model, rng, side)


MESHES = """
<mesh name="wedge" vertex="0 0 0  .2 0 0  0 .1 0  .2 .1 0  0 0 .12  0 .1 .12"/>
<mesh name="step" vertex="0 0 0  .2 0 0  .2 0 .05  .1 0 .05  .1 0 .15  0 0 .15
    0 .1 0  .2 .1 0  .2 .1 .05  .1 .1 .05  .1 .1 .15  0 .1 .15"
  face="0 1 2  0 2 3  0 3 4  0 4 5  6 8 7  6 9 8  6 10 9  6 11 10
    0 7 1  0 6 7  1 8 2  1 7 8  2 9 3  2 8 9  3 10 4  3 9 10
    4 11 5  4 10 11  5 6 0  5 11 6"/>
"""
"""A convex mesh, and one that is not: two stairs."""


def build_meshes(seed: int, side: int = 24) -> Scene:
    """Return a scene of a floor, a sphere, and two of each mesh."""
    rng = np.random.default_rng(seed)
    parts = ['<geom type="plane" size="0 0 1"/>', '<geom size=".06" pos="0 0 .3"/>']
    for name in ("wedge", "step", "wedge", "step"):
        place = [*rng.uniform(-0.25, 0.25, 2), rng.uniform(0.15, 0.4)]
        texts = [" ".join(f"{x:.5f}" for x in v) for v in (place, rng.normal(size=4))]
        parts.append(
            f'<geom type="mesh" mesh="{name}" pos="{texts[0]}" quat="{texts[1]}"/>'
        )
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><asset>{MESHES}</asset><worldbody>{''.join(parts)}</worldbody></mujoco>"
    )
    corners = []
    for mesh in model.geom_dataid[2:]:
        first, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        faces = model.mesh_face[first : first + count] + model.mesh_vertadr[mesh]
        corners.append(jnp.asarray(model.mesh_vert[faces], jnp.float32))
    return _scene(model, rng, side, tuple(corners))


@pytest.fixture
def meshes():
    """The function that builds a scene with meshes from a seed."""
    return build_meshes


@pytest.fixture
def scene():
    """The function that builds a scene from a seed."""
    return build
