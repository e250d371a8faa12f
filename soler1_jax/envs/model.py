"""The physics model: one MuJoCo scene that every task and world shares.

A gripper (three slides, two fingers with sphere tips), two objects (three slides and
yaw each), a plate, a sliding and a hinged fixture. Poses, sizes, colours, joints and
cameras in here are place-holders: `scene.SceneParams` replaces them per world.

Contacts are few on purpose: finger tips against object boxes and handles, and object
against object as spheres. Every pair is explicit; nothing else collides.

The solver (conjugate gradients on sparse matrices, Euler with implicit joint damping)
is chosen because none of it calls LAPACK: batches of small Cholesky factors, which
Newton needs, wait for XLA's thread pool from inside that pool and can stop a CPU for
good (jaxlib 0.10). Fewer iterations or stiffer contacts than these let a grip slip.

Units: metres, kilograms, seconds.
"""

import functools
from typing import NamedTuple

import mujoco
import numpy as np

TIMESTEP = 0.02
SUBSTEPS = 2
ITERATIONS = 8
LINE_SEARCH = 4
CONTROL_STEP = TIMESTEP * SUBSTEPS

TIP_RADIUS = 0.012
FINGER_TRAVEL = 0.05
GRIPPER_DAMPING = 38

# Order of joints in qpos: gripper x y z, fingers, objects (x y z yaw each), fixtures.
GRIPPER_Q = slice(0, 3)
FINGER_Q = slice(3, 5)
OBJECT_Q = (slice(5, 9), slice(9, 13))
SLIDE_Q = 13
HINGE_Q = 14
Q = 15

VIEWS = ("external", "wrist")
CLASSES = (
    "background",
    "gripper",
    "object0",
    "object1",
    "plate",
    "slide",
    "hinge",
    "base",
)


def _object(index: int) -> str:
    name = f"object{index}"
    return f"""
    <body name="{name}">
      <inertial pos="0 0 0" mass="0.1" diaginertia="1e-4 1e-4 1e-4"/>
      <joint name="{name}_x" type="slide" axis="1 0 0" damping="2"/>
      <joint name="{name}_y" type="slide" axis="0 1 0" damping="2"/>
      <joint name="{name}_z" type="slide" axis="0 0 1" damping="0.1"
        limited="true" range="0 2"/>
      <joint name="{name}_yaw" type="hinge" axis="0 0 1" damping="0.002"/>
      <geom name="{name}_cube" type="box" size=".03 .03 .03"/>
      <geom name="{name}_ball" type="sphere" size=".03"/>
      <geom name="{name}_cylinder" type="cylinder" size=".03 .03"/>
    </body>"""


def _fixture(name: str, joint: str) -> str:
    return f"""
    <body name="{name}_base">
      <geom name="{name}_base0" type="box" size=".05 .05 .05"/>
      <geom name="{name}_base1" type="box" size=".05 .05 .05"/>
      <body name="{name}_part" gravcomp="1">
        <inertial pos="0 0 0" mass="0.2" diaginertia="1e-3 1e-3 1e-3"/>
        <joint name="{name}" type="{joint}" axis="0 0 1" damping="1" stiffness="1"
          armature="0.001" limited="true" range="0 1"/>
        <geom name="{name}_move" type="box" size=".05 .05 .05"/>
        <geom name="{name}_disc" type="cylinder" size=".05 .05"/>
        <geom name="{name}_handle" type="box" size=".02 .02 .02"/>
      </body>
    </body>"""


def _finger(name: str, side: int) -> str:
    return f"""
      <body name="{name}" pos="{side * TIP_RADIUS} 0 0" gravcomp="1">
        <inertial pos="0 0 0" mass="0.25" diaginertia="1e-4 1e-4 1e-4"/>
        <joint name="{name}" type="slide" axis="{side} 0 0" damping="8"
          limited="true" range="0 {FINGER_TRAVEL}"/>
        <geom name="{name}_tip" type="sphere" size="{TIP_RADIUS}"
          rgba=".12 .12 .14 1"/>
        <geom name="{name}_shaft" type="box" pos="0 0 .04" size=".007 .009 .04"
          rgba=".55 .57 .6 1"/>
      </body>"""


def _gripper() -> str:
    joints = "".join(
        f'<joint name="gripper_{axis}" type="slide" axis="{vector}" damping="{GRIPPER_DAMPING}"/>'
        for axis, vector in zip("xyz", ("1 0 0", "0 1 0", "0 0 1"), strict=True)
    )
    return f"""
    <body name="gripper" gravcomp="1">
      <inertial pos="0 0 0" mass="0.5" diaginertia="1e-3 1e-3 1e-3"/>
      {joints}
      <geom name="palm" type="box" pos="0 0 .092" size=".065 .015 .012"
        rgba=".3 .32 .36 1"/>
      <geom name="arm" type="cylinder" pos="0 0 .15" size=".016 .05"
        rgba=".75 .76 .8 1"/>
      <camera name="wrist"/>
      {_finger("left", -1)}
      {_finger("right", 1)}
    </body>"""


def _pairs() -> str:
    grip = 'condim="3" friction="1.5 1.5 .005 .0001 .0001"'
    boxes = ("object0_cube", "object1_cube", "slide_handle", "hinge_handle")
    pairs = [
        f'<pair geom1="{finger}_tip" geom2="{box}" {grip}/>'
        for finger in ("left", "right")
        for box in boxes
    ]
    pairs.append('<pair geom1="object0_ball" geom2="object1_ball" condim="1"/>')
    return "\n".join(pairs)


def _actuators() -> str:
    gripper = "".join(
        f'<position joint="gripper_{axis}" kp="400" forcerange="-20 20"/>'
        for axis in "xyz"
    )
    fingers = "".join(
        f'<position joint="{finger}" kp="100" forcerange="-4 4"/>'
        for finger in ("left", "right")
    )
    return gripper + fingers


def _xml() -> str:
    return f"""
<mujoco model="tabletop">
  <option timestep="{TIMESTEP}" integrator="Euler" solver="CG" jacobian="sparse"
    iterations="{ITERATIONS}" ls_iterations="{LINE_SEARCH}" cone="pyramidal"/>
  <visual>
    <headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/>
    <map znear="0.01" zfar="10"/>
    <quality shadowsize="2048"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0"/>
  </default>
  <worldbody>
    <light name="sun" type="directional" pos="0 0 2" dir="0 0 -1" specular="0 0 0"/>
    <camera name="external"/>
    <geom name="table" type="plane" size="5 5 .1"/>
    {_gripper()}
    {_object(0)}
    {_object(1)}
    {_fixture("slide", "slide")}
    {_fixture("hinge", "hinge")}
    <body name="plate">
      <geom name="plate" type="cylinder" size=".06 .002"/>
    </body>
  </worldbody>
  <contact>{_pairs()}</contact>
  <actuator>{_actuators()}</actuator>
</mujoco>"""


def new_mujoco_model() -> mujoco.MjModel:
    """Return a model of one's own, free to change."""
    return mujoco.MjModel.from_xml_string(_xml())


@functools.cache
def mujoco_model() -> mujoco.MjModel:
    """Return the shared model. Treat it as read-only."""
    return new_mujoco_model()


class Ids(NamedTuple):
    """Indices of named things in the model; `geom["palm"]`, `body["plate"]` and so on."""

    geom: dict[str, int]
    body: dict[str, int]
    joint: dict[str, int]
    camera: dict[str, int]


@functools.cache
def ids() -> Ids:
    """Return the indices of all named geoms, bodies, joints and cameras."""
    model = mujoco_model()

    def named(kind: mujoco.mjtObj, count: int) -> dict[str, int]:
        names = [mujoco.mj_id2name(model, kind, index) for index in range(count)]
        return {name: index for index, name in enumerate(names) if name}

    return Ids(
        geom=named(mujoco.mjtObj.mjOBJ_GEOM, model.ngeom),
        body=named(mujoco.mjtObj.mjOBJ_BODY, model.nbody),
        joint=named(mujoco.mjtObj.mjOBJ_JOINT, model.njnt),
        camera=named(mujoco.mjtObj.mjOBJ_CAMERA, model.ncam),
    )


@functools.cache
def class_of_geom() -> np.ndarray:
    """Return uint8 [G + 1]: the semantic class of each geom; the last is "no geom"."""
    table = np.zeros(mujoco_model().ngeom + 1, np.uint8)
    gripper = ("palm", "arm", "left_tip", "left_shaft", "right_tip", "right_shaft")
    for name, index in ids().geom.items():
        prefix = name.split("_")[0]
        if name in gripper:
            table[index] = CLASSES.index("gripper")
        elif "_base" in name:
            table[index] = CLASSES.index("base")
        elif prefix in CLASSES:
            table[index] = CLASSES.index(prefix)
    return table
