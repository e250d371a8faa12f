"""What every environment shares: the state it carries and the facts it can tell.

The shape follows Brax and MuJoCo Playground: `reset(key) -> State` and
`step(State, action) -> State`, pure functions of pytrees, one world each; use
`jax.vmap` over worlds.
"""

from typing import Any, NamedTuple

import flax.struct
import jax

Array = jax.Array


@flax.struct.dataclass
class State:
    """One world between two control steps.

    Attributes:
      data: the simulator's state, `mjx.Data`.
      obs: what a policy may see: "pixels/<view>" uint8 [H, W, 3] for each view and
        "proprio" float32 [P]. Nothing privileged.
      reward: float32 []; 0 from the environment itself: a rewarder fills it.
      done: float32 [], 1 at the last step of the episode.
      metrics: float32 [] each; privileged, for evaluation and synthesis only:
        "progress" percent in [-100, 100], "success" 0 or 1, "reach", "act" fractions,
        "contact", "grasped" 0 or 1.
      info: "task" int32 [], "step" int32 [], "scene" SceneParams, "start" the facts at
        reset that progress is measured from, "rng" a key.
    """

    data: Any
    obs: dict[str, Array]
    reward: Array
    done: Array
    metrics: dict[str, Array]
    info: dict[str, Any]


class Facts(NamedTuple):
    """What is true in a world; privileged, for synthesis and evaluation only.

    Attributes:
      gripper: float32 [3], the point between the finger tips, metres.
      aperture: float32 [], gap between the finger tips, metres.
      objects: float32 [2, 3], centres, metres; object 0 is the named one, if any.
      object_yaw: float32 [2], radians.
      object_size: float32 [2], half-size, metres.
      object_present: bool [2].
      plate: float32 [3], centre of its top, metres.
      slide: float32 [], travel of the sliding fixture in [0, 1].
      hinge: float32 [], travel of the hinged fixture in [0, 1].
      handle: float32 [3], the handle of the fixture that is present, metres.
      handle_motion: float32 [3], unit vector along which the handle moves while the
        travel grows.
      handle_size: float32 [3], half extents of the handle's box in its own frame, metres.
      target: float32 [3], the point the gripper must reach, metres.
      distance: float32 [], from the gripper to the target, metres.
      gap: float32 [], from the nearer finger tip to the named thing's surface, metres.
      reach: float32 [] in [-1, 1], fraction of the initial distance covered.
      act: float32 [] in [-1, 1], fraction of the task's own motion done.
      contact: bool [], a finger tip touches the named thing.
      grasped: bool [], the named thing is between both finger tips, touching both.
      other_contact: bool [], a finger tip touches an object that is not named.
      other_grasped: bool [], such an object is held.
      progress: float32 [], percent in [-100, 100].
      success: bool [], true now; an episode succeeds if it was true at any step.
    """

    gripper: Array
    aperture: Array
    objects: Array
    object_yaw: Array
    object_size: Array
    object_present: Array
    plate: Array
    slide: Array
    hinge: Array
    handle: Array
    handle_motion: Array
    handle_size: Array
    target: Array
    distance: Array
    gap: Array
    reach: Array
    act: Array
    contact: Array
    grasped: Array
    other_contact: Array
    other_grasped: Array
    progress: Array
    success: Array
