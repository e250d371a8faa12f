"""A ring of whole episodes that lives on the device.

Each slot holds one episode of all worlds. Pixels stay uint8. One more slot than the
capacity takes the episodes that must not be learned from (evaluation), so that
writing never depends on the host and the donated buffers are updated in place.

Letters: E slots, T control steps, B worlds, N sampled transitions.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from soler1_jax.rl.types import Observation, Shapes, Trajectory


@flax.struct.dataclass
class Replay:
    """Episodes and how many were ever stored."""

    pixels: jax.Array  # uint8 [E+1, T+1, B, H, W, C]
    proprio: jax.Array  # float32 [E+1, T+1, B, P]
    action: jax.Array  # float32 [E+1, T, B, A]
    reward: jax.Array  # float32 [E+1, T, B]
    stored: jax.Array  # int32 []

    @property
    def capacity(self) -> int:
        """E, slots that can be sampled."""
        return self.pixels.shape[0] - 1


class Batch(NamedTuple):
    """N transitions over up to n steps."""

    now: Observation  # [N, ...]
    action: jax.Array  # float32 [N, A]
    reward: jax.Array  # float32 [N], discounted sum over the steps taken
    discount: jax.Array  # float32 [N], discount ** (steps taken)
    later: Observation  # [N, ...], where the bootstrap value is read


def empty(capacity: int, steps: int, worlds: int, shapes: Shapes) -> Replay:
    """Allocates a ring of `capacity` episodes of `steps` control steps."""
    lead = (capacity + 1, steps, worlds)
    seen = (capacity + 1, steps + 1, worlds)
    return Replay(
        pixels=jnp.zeros((*seen, *shapes.image), jnp.uint8),
        proprio=jnp.zeros((*seen, shapes.proprio), jnp.float32),
        action=jnp.zeros((*lead, shapes.action), jnp.float32),
        reward=jnp.zeros(lead, jnp.float32),
        stored=jnp.int32(0),
    )


def insert(replay: Replay, episode: Trajectory, keep: jax.Array) -> Replay:
    """Stores an episode, over the oldest one when the ring is full.

    Args:
      episode: of the shapes given to `empty`.
      keep: bool []; False writes it where it can never be sampled.
    """
    slot = jnp.where(keep, replay.stored % replay.capacity, replay.capacity)

    def put(ring: jax.Array, value: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(ring, value, slot, 0)

    return Replay(
        pixels=put(replay.pixels, episode.observation.pixels),
        proprio=put(replay.proprio, episode.observation.proprio),
        action=put(replay.action, jnp.clip(episode.action, -1.0, 1.0)),
        reward=put(replay.reward, episode.reward),
        stored=replay.stored + keep.astype(jnp.int32),
    )


def sample(
    replay: Replay, key: jax.Array, count: int, discount: float, horizon: int
) -> Batch:
    """Draws transitions uniformly over episodes, worlds and steps.

    Returns are cut at the end of the episode, which is a time limit: the value there
    is still bootstrapped.

    Args:
      count: N.
      discount: per control step.
      horizon: n of the n-step return.
    """
    steps, worlds = replay.reward.shape[1:]
    filled = jnp.clip(replay.stored, 1, replay.capacity)
    keys = jax.random.split(key, 3)
    slot = jax.random.randint(keys[0], (count,), 0, filled)
    step = jax.random.randint(keys[1], (count,), 0, steps)
    world = jax.random.randint(keys[2], (count,), 0, worlds)
    ahead = step[:, None] + jnp.arange(horizon)
    inside = ahead < steps
    rewards = replay.reward[
        slot[:, None], jnp.minimum(ahead, steps - 1), world[:, None]
    ]
    weights = jnp.where(inside, discount ** jnp.arange(horizon), 0.0)
    taken = jnp.sum(inside, axis=1)
    later = step + taken

    def seen(at: jax.Array) -> Observation:
        pixels = replay.pixels[slot, at, world]
        return Observation(pixels, replay.proprio[slot, at, world])

    return Batch(
        now=seen(step),
        action=replay.action[slot, step, world],
        reward=jnp.sum(rewards * weights, axis=1),
        discount=discount ** taken.astype(jnp.float32),
        later=seen(later),
    )
