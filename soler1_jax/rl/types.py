"""What an agent, a rollout and an environment hand to each other.

Letters: T control steps of an episode, B worlds, H W C pixels and channels (views
stacked), P proprioceptive numbers, A action numbers, Q queries, S tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp


class Observation(NamedTuple):
    """What a policy sees: pixels and proprioception, nothing privileged."""

    pixels: jax.Array  # uint8 [..., H, W, C]
    proprio: jax.Array  # float32 [..., P]


class Trajectory(NamedTuple):
    """One episode of B worlds, the only thing an agent learns from.

    Every episode has T steps and ends by time, never by a terminal state.
    """

    observation: Observation  # [T+1, B, ...]; the last one follows the last action
    action: jax.Array  # float32 [T, B, A] in [-1, 1], before clipping
    reward: jax.Array  # float32 [T, B], of arriving at step t+1
    extras: dict[str, jax.Array]  # what the agent noted when acting, [T, B, ...]


@flax.struct.dataclass
class EpisodeRecord:
    """What happened in B episodes, for evaluation and pictures; no agent sees it."""

    frames: dict[str, jax.Array]  # view -> uint8 [Q+1, B, S, S, 3], rewarder's view
    predicted: jax.Array  # float32 [Q+1, B] percent, as rewarded; 0 at the first frame
    expected: jax.Array  # float32 [Q+1, B] percent, mean of the answer's distribution
    entropy: jax.Array  # float32 [Q, B] nats
    tokens: jax.Array  # int32 [Q, B, S]
    parsed: jax.Array  # bool [Q, B]
    true: jax.Array  # float32 [Q+1, B] percent
    success: jax.Array  # float32 [B], 1 if the goal was met at any step


class Agent(NamedTuple):
    """A learning algorithm as pure functions; `state` is any pytree.

    Attributes:
      name: e.g. "drqv2".
      worlds: B, how many episodes it collects at once on each of its devices.
      quiet: how many of them, from the first on, it always acts in without noise.
      devices: how many share one policy; with more than one, `learn` runs under
        `shards.AXIS`.
      init: key -> state.
      begin: (state, explore) -> carry. `explore` float32 [] scales exploration: 1 while
        learning, 0 for the noise-free policy.
      act: (state, carry, Observation [B, ...], key) -> (carry, action [B, A], extras).
      learn: (state, Trajectory, key, enabled) -> (state, scalar metrics). With
        `enabled` (bool []) False the state must not change what it will ever do.
      policy: state -> encoder and actor, for rl/policies.py; takes leading axes too.
      activation: of the actor's hidden layers, "relu" or "tanh".
    """

    name: str
    worlds: int
    quiet: int
    devices: int
    init: Callable[[jax.Array], Any]
    begin: Callable[[Any, jax.Array], Any]
    act: Callable[[Any, Any, Observation, jax.Array], tuple[Any, jax.Array, Any]]
    learn: Callable[[Any, Trajectory, jax.Array, jax.Array], tuple[Any, dict]]
    policy: Callable[[Any], dict[str, Any]]
    activation: str


class Environment(Protocol):
    """The part of `envs.tabletop.Tabletop` that learning needs; one world each."""

    action_size: int

    def reset_task(self, key: jax.Array, task: jax.Array) -> Any:
        """Starts an episode of the task with index `task`, int32 []."""

    def step(self, state: Any, action: jax.Array) -> Any:
        """Advances one control step; action float32 [A] in [-1, 1]."""

    def render(self, state: Any, view: str, size: int) -> Any:
        """Renders a view; the result's `rgb` is uint8 [size, size, 3]."""


def observe(obs: dict[str, jax.Array]) -> Observation:
    """Stacks the views of an environment's observation along the channels."""
    views = [obs[name] for name in sorted(obs) if name.startswith("pixels/")]
    return Observation(jnp.concatenate(views, axis=-1), obs["proprio"])


class Shapes(NamedTuple):
    """Sizes of what an agent sees and does."""

    image: tuple[int, int, int]  # H, W, C
    proprio: int
    action: int


def shapes_of(env: Environment) -> Shapes:
    """Finds the sizes without running the environment."""
    state = jax.eval_shape(env.reset_task, jax.random.key(0), jnp.int32(0))
    seen = jax.eval_shape(observe, state.obs)
    return Shapes(seen.pixels.shape, seen.proprio.shape[-1], env.action_size)
