"""The tabletop: one compiled step for every task, in thousands of worlds.

`reset` and `step` are pure functions of one world; use `jax.vmap` over worlds. The task
is an index at run time, so nothing compiles again when it changes.

An action is float32 [4] in [-1, 1]: dx, dy, dz move the commanded gripper position by
up to `STRIDE` metres each, the last one closes the fingers (-1 open, 1 closed).
Dimension letters: H image height (= width), P proprioception, Q joint positions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.envs import fixtures, model, poses, progress, render, scene, tasks
from soler1_jax.envs.base import Facts, State
from soler1_jax.envs.engine import mjx
from soler1_jax.envs.scene import SceneParams

Array = jax.Array

STRIDE = 0.03
LEAD = 0.06
# Metres. Tips fit under a drawer's handle at 0.016; objects are gripped from 0.026 up.
REACH_LOW = (-0.26, -0.24, 0.024)
REACH_HIGH = (0.26, 0.22, 0.26)
SQUEEZE = 0.015
TABLE_EDGE = 0.28

PROPRIO = 9
ACTIONS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabletopConfig:
    """What a tabletop shows and how long an episode is.

    Attributes:
      image_size: height and width of the policy's pictures, pixels.
      views: which of `model.VIEWS` are observed; empty for proprioception only.
      episode_length: control steps.
      tasks: names of the tasks that `reset` draws from; None for all.
      raycast: implementation of the ray casts, see `kernels.raycast`; None for that of
        the default backend.
    """

    image_size: int = 32
    views: tuple[str, ...] = model.VIEWS
    episode_length: int = 40
    tasks: tuple[str, ...] | None = None
    raycast: str | None = None


def _check(config: TabletopConfig) -> None:
    unknown = [view for view in config.views if view not in model.VIEWS]
    if unknown:
        raise UserError(
            f"views are {', '.join(model.VIEWS)}; got {', '.join(unknown)}; "
            "change the list of views"
        )
    for name in ("image_size", "episode_length"):
        if getattr(config, name) < 1:
            raise UserError(
                f"{name} must be at least 1; got {getattr(config, name)}; give 1 or more"
            )
    if config.tasks is not None and not config.tasks:
        raise UserError("an environment needs a task; got none; name at least one")


class Tabletop:
    """The environment. Construction checks the configuration and loads the physics.

    Raises:
      UserError: an unknown view or task, or a size below 1.
    """

    def __init__(self, config: TabletopConfig | None = None) -> None:
        self.config = config or TabletopConfig()
        _check(self.config)
        names = self.config.tasks or tasks.names()
        self._choices = np.asarray([tasks.task_index(n) for n in names], np.int32)
        self._table = tasks.table()
        self._physics = mjx.put_model(model.mujoco_model())
        self._geom_types = render.types_of(self._physics)

    @property
    def action_size(self) -> int:
        """Number of action components."""
        return ACTIONS

    @property
    def observation_size(self) -> dict[str, tuple[int, ...]]:
        """Shape of each observation."""
        size = self.config.image_size
        shapes: dict[str, tuple[int, ...]] = {"proprio": (PROPRIO,)}
        return shapes | {
            f"pixels/{view}": (size, size, 3) for view in self.config.views
        }

    def reset(self, key: Array) -> State:
        """Return the first state of an episode of a task drawn from the config's."""
        pick, key = jax.random.split(key)
        choices = jnp.asarray(self._choices)
        return self.reset_task(
            key, choices[jax.random.randint(pick, (), 0, len(choices))]
        )

    def reset_task(self, key: Array, task: Array | int) -> State:
        """Return the first state of an episode of one task.

        Args:
          key: a PRNG key.
          task: int32 [], index into `tasks.TASKS`.
        """
        task = jnp.asarray(task, jnp.int32)
        draw, rng = jax.random.split(key)
        row = self._row(task)
        params, qpos = scene.draw(draw, row)
        data = mjx.make_data(self._physics)
        opening = qpos[model.FINGER_Q]
        ctrl = jnp.concatenate([qpos[model.GRIPPER_Q], opening])
        data = data.replace(qpos=qpos, ctrl=ctrl)
        data = poses.update(data, params)
        info = {
            "task": task,
            "step": jnp.zeros((), jnp.int32),
            "scene": params,
            "start": progress.begin(data, params, row),
            "rng": rng,
        }
        return self._observe(data, info)

    def step(self, state: State, action: Array) -> State:
        """Advance one control step.

        Args:
          state: one world.
          action: float32 [4]; clipped to [-1, 1].
        """
        info = dict(state.info)
        physics = scene.apply(self._physics, info["scene"])
        data = state.data.replace(ctrl=self._command(state.data, action))

        def substep(data: mjx.Data, _: None) -> tuple[mjx.Data, None]:
            return self._contain(mjx.step(physics, data)), None

        data, _ = jax.lax.scan(substep, data, None, length=model.SUBSTEPS)
        # A step leaves poses one integration behind positions.
        data = poses.update(data, info["scene"])
        info["step"] = info["step"] + 1
        return self._observe(data, info)

    def assign(self, state: State, task: Array | int) -> State:
        """Return the same world with another task, whose progress is 0 now.

        The world was drawn for its own task: another one makes sense if it names the
        same thing.

        Args:
          state: one world.
          task: int32 [], index into `tasks.TASKS`.
        """
        task = jnp.asarray(task, jnp.int32)
        start = progress.begin(state.data, state.info["scene"], self._row(task))
        return state.replace(info={**state.info, "task": task, "start": start})

    def facts(self, state: State) -> Facts:
        """Return what is true in a world; privileged (synthesis and evaluation only)."""
        row = self._row(state.info["task"])
        return progress.measure(
            state.data, state.info["scene"], row, state.info["start"]
        )

    def camera(self, state: State, view: str) -> render.Camera:
        """Return the camera of a view.

        Raises:
          UserError: unknown view.
        """
        if view not in model.VIEWS:
            raise UserError(
                f"views are {', '.join(model.VIEWS)}; got {view!r}; name one of them"
            )
        index = model.VIEWS.index(view)
        params = state.info["scene"]
        position = params.camera_pos[index]
        if view == "wrist":
            # The gripper never rotates, so its frame differs by a shift.
            position = position + state.data.xpos[model.ids().body["gripper"]]
        return render.Camera(
            position, params.camera_mat[index], params.camera_fovy[index]
        )

    def render(
        self, state: State, view: str, size: int, *, shadows: bool = True
    ) -> render.RenderedImage:
        """Return the picture of one view: rgb, depth and geom ids, `size` pixels square.

        Raises:
          UserError: unknown view.
        """
        params = state.info["scene"]
        physics = scene.apply(self._physics, params).replace(geom_rgba=params.geom_rgba)
        light = render.Light(
            params.light_direction,
            jnp.full(3, params.light_ambient),
            jnp.full(3, params.light_diffuse),
        )
        return render.render(
            self._geom_types,
            render.geoms_of(physics, state.data),
            self.camera(state, view),
            light,
            height=size,
            width=size,
            shadows=shadows,
            implementation=self.config.raycast,
        )

    def semantic(self, segmentation: Array, state: State | None = None) -> Array:
        """Return classes uint8 (indices into `model.CLASSES`) for geom ids.

        Args:
          segmentation: int32 [...], geom ids; -1 for nothing.
          state: not needed here; geoms keep their meaning in all worlds.
        """
        del state
        return jnp.asarray(model.class_of_geom())[segmentation]

    def describe(self, task: int, params: SceneParams) -> dict[str, Any]:
        """Return what a scene holds, in words; host side.

        Args:
          task: index into `tasks.TASKS`.
          params: of one world.

        Returns:
          "task", "sentence", "objects" (list of {"color", "shape", "noun", "half",
          "present"}; object 0 is the named one if the task names an object), "plate"
          bool, "slide" and "hinge" names or None, "fixture" the one that is there.
        """
        spec = tasks.TASKS[int(task)]
        objects = []
        for index in range(2):
            color = tasks.COLORS[int(params.color[index])]
            shape = tasks.SHAPES[int(params.shape[index])]
            objects.append(
                {
                    "color": color,
                    "shape": shape,
                    "noun": f"{color} {shape}",
                    "half": float(params.half[index]),
                    "present": bool(params.present[index]),
                }
            )
        slide = fixtures.SLIDES[int(params.slide_kind)]
        hinge = fixtures.HINGES[int(params.hinge_kind)]
        slide_name = None if slide == "absent" else slide
        hinge_name = None if hinge == "absent" else hinge
        return {
            "task": spec.name,
            "sentence": spec.sentence,
            "objects": objects,
            "plate": bool(params.plate_present),
            "slide": slide_name,
            "hinge": hinge_name,
            "fixture": slide_name or hinge_name,
        }

    def _row(self, task: Array) -> tasks.TaskTable:
        return jax.tree.map(lambda column: jnp.asarray(column)[task], self._table)

    def _command(self, data: mjx.Data, action: Array) -> Array:
        """Return the actuators' targets [5] for an action."""
        action = jnp.clip(action, -1.0, 1.0)
        here = data.qpos[model.GRIPPER_Q]
        goal = data.ctrl[:3] + STRIDE * action[:3]
        goal = jnp.clip(goal, here - LEAD, here + LEAD)
        goal = jnp.clip(goal, jnp.asarray(REACH_LOW), jnp.asarray(REACH_HIGH))
        share = (1.0 - action[3]) / 2
        opening = (model.FINGER_TRAVEL + SQUEEZE) * share - SQUEEZE
        return jnp.concatenate([goal, jnp.full(2, opening)])

    def _contain(self, data: mjx.Data) -> mjx.Data:
        """Keep objects on the table, as a rim would."""
        qpos, qvel = data.qpos, data.qvel
        for joints in model.OBJECT_Q:
            flat = slice(joints.start, joints.start + 2)
            kept = jnp.clip(qpos[flat], -TABLE_EDGE, TABLE_EDGE)
            qvel = qvel.at[flat].multiply(kept == qpos[flat])
            qpos = qpos.at[flat].set(kept)
        return data.replace(qpos=qpos, qvel=qvel)

    def _observe(self, data: mjx.Data, info: dict[str, Any]) -> State:
        zero = jnp.zeros(())
        state = State(data=data, obs={}, reward=zero, done=zero, metrics={}, info=info)
        facts = self.facts(state)
        metrics = {
            "progress": facts.progress,
            "success": facts.success.astype(jnp.float32),
            "reach": facts.reach,
            "act": facts.act,
            "contact": facts.contact.astype(jnp.float32),
            "grasped": facts.grasped.astype(jnp.float32),
        }
        obs = {"proprio": self._proprio(data)}
        for view in self.config.views:
            size = self.config.image_size
            obs[f"pixels/{view}"] = self.render(state, view, size).rgb
        done = (info["step"] >= self.config.episode_length).astype(jnp.float32)
        return state.replace(obs=obs, metrics=metrics, done=done)

    def _proprio(self, data: mjx.Data) -> Array:
        """Return gripper position and velocity, finger opening and speed, command [9]."""
        position = (data.qpos[model.GRIPPER_Q] - jnp.asarray([0.0, 0.0, 0.13])) / 0.2
        velocity = data.qvel[model.GRIPPER_Q] / 0.6
        opening = data.qpos[model.FINGER_Q].sum() / model.FINGER_TRAVEL - 1.0
        speed = data.qvel[model.FINGER_Q].sum() / 0.6
        command = data.ctrl[3] / model.FINGER_TRAVEL
        return jnp.concatenate(
            [position, velocity, jnp.stack([opening, speed, command])]
        )


def make(names: Sequence[str] | None = None, **settings: Any) -> Tabletop:
    """Return a tabletop for some tasks; `settings` as in `TabletopConfig`.

    Raises:
      UserError: as `Tabletop`.
    """
    chosen = tuple(names) if names is not None else None
    return Tabletop(TabletopConfig(tasks=chosen, **settings))
