"""The ring against plain numpy: order, evaluation episodes, n-step sums."""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.rl import replay
from soler1_jax.rl.types import Observation, Shapes, Trajectory

STEPS, WORLDS, CAPACITY = 6, 3, 2
SHAPES = Shapes(image=(8, 8, 3), proprio=3, action=2)


def episode(number: int) -> Trajectory:
    """Every value tells its episode, step and world."""
    step, world = np.meshgrid(np.arange(STEPS + 1), np.arange(WORLDS), indexing="ij")
    name = np.stack([np.full_like(step, number), step, world], -1)
    pixels = np.broadcast_to(name[:, :, None, None, :], (*step.shape, 8, 8, 3))
    action = np.stack([step, world], -1)[:-1] / 10
    reward = (100 * number + 10 * step + world)[1:]
    seen = Observation(jnp.uint8(pixels), jnp.float32(name))
    return Trajectory(seen, jnp.float32(action), jnp.float32(reward), {})


def filled(*episodes: tuple[int, bool]) -> replay.Replay:
    ring = replay.empty(CAPACITY, STEPS, WORLDS, SHAPES)
    for number, keep in episodes:
        ring = replay.insert(ring, episode(number), jnp.bool_(keep))
    return ring


def test_sampled_transitions_are_n_step_sums_cut_at_the_end(key):
    ring = filled((1, True))
    discount, horizon = 0.5, 3
    batch = replay.sample(ring, key, 400, discount, horizon)
    number, step, world = np.asarray(batch.now.proprio, int).T
    assert set(step) == set(range(STEPS)) and set(world) == set(range(WORLDS))
    taken = np.minimum(horizon, STEPS - step)
    later = np.asarray(batch.later.proprio, int)
    np.testing.assert_array_equal(later[:, 1], step + taken)
    np.testing.assert_array_equal(later[:, 2], world)
    expected = [
        sum(discount**i * (100 + 10 * (s + i + 1) + w) for i in range(n))
        for s, w, n in zip(step, world, taken, strict=True)
    ]
    np.testing.assert_allclose(batch.reward, expected, rtol=1e-6)
    np.testing.assert_allclose(batch.discount, discount**taken)
    np.testing.assert_allclose(batch.action[:, 0], step / 10, rtol=1e-6)
    np.testing.assert_array_equal(batch.now.pixels[:, 3, 5], batch.now.proprio)


def test_the_oldest_episode_goes_first_and_evaluation_is_never_sampled(key):
    ring = filled((1, True), (2, True), (9, False), (3, True), (8, False))
    batch = replay.sample(ring, key, 300, 0.9, 1)
    assert set(np.asarray(batch.now.proprio[:, 0])) == {2.0, 3.0}
    assert int(ring.stored) == 3


def test_insert_updates_donated_buffers_in_place():
    ring = replay.empty(CAPACITY, STEPS, WORLDS, SHAPES)
    insert = jax.jit(replay.insert, donate_argnums=0)
    before = ring.pixels.unsafe_buffer_pointer()
    ring = insert(ring, episode(1), jnp.bool_(True))
    assert ring.pixels.unsafe_buffer_pointer() == before
