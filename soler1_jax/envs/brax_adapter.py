"""The tabletop as a Brax environment, for Brax's wrappers and agents.

Brax keeps the simulator's state in `pipeline_state`, lets a wrapper count the steps, and
resets by putting the first `pipeline_state` and `obs` back. Everything of ours that must
go back with them therefore travels in `pipeline_state` or does not change in an episode.
"""

from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env
from brax.envs.base import State as BraxState

from soler1_jax.envs.base import State
from soler1_jax.envs.tabletop import ACTIONS, Tabletop

Array = jax.Array


class BraxTabletop(Env):
    """A `Tabletop` that Brax's agents train on; the reward is what `reward` returns.

    Args:
      env: the environment. With `views=()` the observation is a flat array of
        proprioception, which Brax's plain networks take; else a dictionary.
      reward: function of our State (after a step) to float32 []; by default the true
        progress as a fraction, which makes a baseline and not a learner that is blind
        to the truth.
    """

    def __init__(self, env: Tabletop, reward: Any = None) -> None:
        self._env = env
        self._reward = reward or (lambda state: state.metrics["progress"] / 100.0)

    def reset(self, rng: Array) -> BraxState:
        """Return the first state of an episode."""
        return self._to_brax(self._env.reset(rng), {}, {}, jnp.zeros(()))

    def step(self, state: BraxState, action: Array) -> BraxState:
        """Advance one control step; episodes end by Brax's EpisodeWrapper."""
        own = state.info["soler1"] | {"step": jnp.zeros((), jnp.int32)}
        before = State(
            data=state.pipeline_state,
            obs={},
            reward=state.reward,
            done=state.done,
            metrics={},
            info=own,
        )
        after = self._env.step(before, action)
        return self._to_brax(after, state.info, state.metrics, self._reward(after))

    @property
    def observation_size(self) -> Any:
        """Size of the flat observation, or shapes by name."""
        shapes = self._env.observation_size
        return shapes if self._env.config.views else shapes["proprio"][0]

    @property
    def action_size(self) -> int:
        """Number of action components."""
        return ACTIONS

    @property
    def backend(self) -> str:
        """Name of the physics, as Brax wants it."""
        return "mjx"

    def _to_brax(
        self,
        state: State,
        info: dict[str, Any],
        metrics: dict[str, Array],
        reward: Array,
    ) -> BraxState:
        """Join our state with what wrappers keep in `info` and `metrics`."""
        own = {name: state.info[name] for name in ("task", "scene", "start")}
        obs = state.obs if self._env.config.views else state.obs["proprio"]
        return BraxState(
            pipeline_state=state.data,
            obs=obs,
            reward=reward,
            done=jnp.zeros(()),
            metrics={**metrics, **state.metrics},
            info={**info, "soler1": own},
        )
