"""Rollouts of experts, their mistakes and policies, recorded in one compiled function.

B worlds, T frames, S pixels a side, F facts. Simulation, both views, id buffers and
facts of a whole batch are one call; nothing goes to the host before it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.data.records import FACTS
from soler1_jax.envs.base import Facts, State
from soler1_jax.envs.model import GRIPPER_Q
from soler1_jax.envs.scene import SceneParams
from soler1_jax.envs.tabletop import STRIDE, Tabletop, TabletopConfig
from soler1_jax.envs.tasks import VERBS, table
from soler1_jax.rl import policies
from soler1_jax.rl.policies import Policy
from soler1_jax.rl.types import observe
from soler1_jax.synthesis import experts, mistakes
from soler1_jax.synthesis.claims import GRASP_VERBS
from soler1_jax.synthesis.episodes import Recording
from soler1_jax.synthesis.experts import Intent
from soler1_jax.synthesis.mistakes import MODES, Schedule

Array = jax.Array
# A world, and whether its act has passed the schedule's limit.
Carry = tuple[State, Array]
# (carry, control step) -> action float32 [4] and the carry's second part.
Controller = Callable[[Carry, Array], tuple[Array, Array]]

# A random action is held for so many control steps, or it would cancel itself out.
HOLD_STEPS = 3
RISE_M = 0.1
_GRASPING = np.array([VERBS.index(verb) for verb in GRASP_VERBS])
# Standard deviations of the noise on a policy's actions; each run draws one.
POLICY_NOISE = (0.0, 0.0, 0.3, 0.6)


class Recorder:
    """Records batches of episodes; compiles once per batch size.

    Args:
      stride: control steps between two frames.
      frames: T.
      size: side of the frames in pixels.
      wrist: whether to render the wrist view.
      policies: if there are any, they act in place of the experts.
    """

    def __init__(
        self,
        stride: int,
        frames: int,
        size: int,
        wrist: bool,
        policies: Sequence[Policy] = (),
    ):
        config = TabletopConfig(views=(), episode_length=stride * frames)
        if policies:
            config = TabletopConfig(
                image_size=policies[0].image_size, episode_length=stride * frames
            )
        self.env = Tabletop(config)
        self.stride, self.frames, self.size, self.wrist = stride, frames, size, wrist
        self._table = table()
        self._policies = _stack(policies)
        self._activation = policies[0].activation if policies else ""
        self._record = jax.jit(jax.vmap(self._episode))

    def record(
        self,
        key: Array,
        task: np.ndarray,
        level: np.ndarray,
        other: np.ndarray,
        policy: np.ndarray,
    ) -> tuple[Recording, SceneParams]:
        """Runs one episode a world.

        Args:
          key: decides scenes, mistakes and noise.
          task: int32 [B], index into TASKS.
          level: int32 [B], index into LEVELS.
          other: int32 [B], a task with the same noun by which the run is judged too.
          policy: int32 [B], which of the policies acts, if there are any.

        Returns:
          The recording and the worlds' scenes, both as numpy with leading B.
        """
        keys = jax.random.split(key, len(task))
        seen, scene = jax.device_get(self._record(keys, task, level, other, policy))
        recording = Recording(
            task=np.asarray(task),
            level=np.asarray(level),
            external=seen["external"],
            wrist=seen.get("wrist"),
            semantic=seen["semantic"],
            wrist_semantic=seen.get("wrist_semantic"),
            facts=seen["facts"],
            other=np.asarray(other),
            other_facts=seen["other_facts"],
        )
        return recording, scene

    def _episode(
        self, key: Array, task: Array, level: Array, other: Array, policy: Array
    ) -> tuple[dict[str, Array], SceneParams]:
        keys = jax.random.split(key, 3)
        state = self.env.reset_task(keys[0], task)
        begun = self.env.assign(state, other).info["start"]
        if self._policies is None:
            act = self._expert(keys[1], keys[2], state, level)
        else:
            act = self._learned(keys[1], keys[2], policy)

        def control(carry: Carry, step: Array) -> tuple[Carry, None]:
            action, tripped = act(carry, step)
            return (self.env.step(carry[0], action), tripped), None

        def frame(carry: Carry, begin: Array) -> tuple[Carry, dict[str, Array]]:
            state = carry[0]
            judged = {"task": other, "start": begun}
            seen = self._look(state) | {
                "other_facts": self._facts(state.replace(info={**state.info, **judged}))
            }
            carry, _ = jax.lax.scan(control, carry, begin + jnp.arange(self.stride))
            return carry, seen

        # The steps after the last frame are wasted: one renderer in the program
        # instead of two halves the minutes of compilation.
        begins = self.stride * jnp.arange(self.frames)
        _, seen = jax.lax.scan(frame, (state, jnp.zeros((), bool)), begins)
        return seen, state.info["scene"]

    def _expert(
        self, draw_key: Array, noise_key: Array, start: State, level: Array
    ) -> Controller:
        """The script of a level, drawn for one world."""
        steps = self.stride * (self.frames - 1)
        verb = jnp.asarray(self._table.verb)[start.info["task"]]
        schedule = mistakes.draw(draw_key, level, steps, jnp.isin(verb, _GRASPING))
        begin = self.env.facts(start).gripper

        def act(carry: Carry, step: Array) -> tuple[Array, Array]:
            state, tripped = carry
            facts = self.env.facts(state)
            tripped |= facts.act > schedule.limit
            mode = mistakes.mode_at(schedule, step, tripped)
            intent = intent_of(
                facts, self._table, state.info["task"], schedule, begin, mode
            )
            action = action_of(state, facts, intent, schedule, mode, step, noise_key)
            return action, tripped

        return act

    def _learned(self, draw_key: Array, noise_key: Array, policy: Array) -> Controller:
        """One of the policies, with noise or without."""
        params = jax.tree.map(lambda x: jnp.asarray(x)[policy], self._policies)
        spread = jax.random.choice(draw_key, jnp.array(POLICY_NOISE))

        def act(carry: Carry, step: Array) -> tuple[Array, Array]:
            state, tripped = carry
            seen = jax.tree.map(lambda x: x[None], observe(state.obs))
            mean = policies.act(params, seen, self._activation)[0]
            noise = jax.random.normal(jax.random.fold_in(noise_key, step), mean.shape)
            return jnp.clip(mean + spread * noise, -1.0, 1.0), tripped

        return act

    def _facts(self, state: State) -> Array:
        fixture = jnp.asarray(self._table.fixture)[state.info["task"]] >= 0
        return facts_vector(self.env.facts(state), fixture)

    def _look(self, state: State) -> dict[str, Array]:
        image = self.env.render(state, "external", self.size)
        seen = {
            "external": image.rgb,
            "semantic": self.env.semantic(image.segmentation, state),
            "facts": self._facts(state),
        }
        if self.wrist:
            image = self.env.render(state, "wrist", self.size)
            seen["wrist"] = image.rgb
            seen["wrist_semantic"] = self.env.semantic(image.segmentation, state)
        return seen


def _stack(given: Sequence[Policy]) -> Any:
    """All policies' weights in one tree with a leading axis; None without any.

    Raises:
      UserError: they are not of one kind.
    """
    if not given:
        return None
    kinds = {(p.activation, p.image_size) for p in given}
    shapes = {str(jax.tree.map(np.shape, p.params)) for p in given}
    if len(kinds) > 1 or len(shapes) > 1:
        raise UserError(
            "policies that act together are of one algorithm and size; got "
            f"{len(kinds) * len(shapes)} kinds; make one data set for each"
        )
    return jax.tree.map(lambda *x: np.stack(x), *(p.params for p in given))


def action_of(
    state: State,
    facts: Facts,
    intent: Intent,
    schedule: Schedule,
    mode: Array,
    step: Array,
    key: Array,
) -> Array:
    """The action, float32 [4], that serves an intent, or a random one.

    Args:
      state: the world now.
      facts: of that state.
      intent: where to go.
      schedule: speed and noise.
      mode: int32 [], index into MODES.
      step: int32 [], control step.
      key: of the episode; folded with the step.
    """
    # the command runs ahead of the gripper; steering by it does not overshoot
    shift = (intent.goal - state.data.ctrl[GRIPPER_Q]) / STRIDE
    # one factor for all three axes keeps the line straight
    shift /= jnp.maximum(jnp.max(jnp.abs(shift)), 1.0)
    care = jnp.where(facts.grasped, jnp.sqrt(schedule.care), schedule.care)
    speed = schedule.speed * jnp.where(facts.contact, care, 1.0)
    noise = schedule.noise * jax.random.normal(jax.random.fold_in(key, step), (3,))
    wanted = jnp.append(speed * shift + noise, intent.close)
    held = jax.random.fold_in(key, 10_000 + step // HOLD_STEPS)
    random = jax.random.uniform(held, (4,), minval=-1.0, maxval=1.0)
    return jnp.clip(jnp.where(mode == MODES.index("random"), random, wanted), -1, 1)


def intent_of(
    facts: Facts,
    rows: Any,
    task: Array,
    schedule: Schedule,
    start: Array,
    mode: Array,
) -> Intent:
    """What a mode wants ("random": as the expert).

    Args:
      facts: the world now.
      rows: the TaskTable.
      task: int32 [], index into TASKS.
      schedule: the world's script.
      start: float32 [3], where the gripper began, metres.
      mode: int32 [], index into MODES.
    """
    do = experts.expert(facts, experts.plan_of(rows, task, False, False))
    wrong = experts.expert(facts, experts.plan_of(rows, task, True, False))
    opposite = experts.plan_of(rows, task, False, True, schedule.drag)
    against = experts.expert(facts, opposite)
    grip = jnp.where(facts.grasped | facts.other_grasped, 1.0, -1.0)
    near = facts.distance < 2 * STRIDE
    cut = Intent(jnp.where(near, do.goal, facts.target), do.close)
    rise = facts.gripper.at[2].add(RISE_M)
    intents = {
        "expert": do,
        "random": do,
        "cut": cut,
        "freeze": Intent(facts.gripper, grip),
        "back": Intent(start, grip),
        "drop": Intent(rise, jnp.array(-1.0)),
        "wrong": wrong,
        "hover": Intent(facts.target + schedule.offset, jnp.array(-1.0)),
        "opposite": against,
    }
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(intents[m] for m in MODES))
    return jax.tree.map(lambda x: x[mode], stacked)


def facts_vector(facts: Facts, fixture: Array) -> Array:
    """Facts as float32 [F] in the order of FACTS.

    Args:
      facts: one world's.
      fixture: bool [], whether the task names a fixture rather than an object.
    """
    named = jnp.where(fixture, facts.handle, facts.objects[0])
    points = {
        "gripper": facts.gripper,
        "named": named,
        "object0": facts.objects[0],
        "object1": facts.objects[1],
        "plate": facts.plate,
        "handle": facts.handle,
    }
    values = {
        f"{name}_{axis}": point[i]
        for name, point in points.items()
        for i, axis in enumerate("xyz")
    }
    values |= {k: getattr(facts, k) for k in FACTS if k not in values}
    return jnp.stack([jnp.asarray(values[k], jnp.float32) for k in FACTS])
