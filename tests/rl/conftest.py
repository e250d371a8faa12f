"""A world without physics: a green dot must reach a red one, on a small picture."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import pytest

SPEED = 0.25


class Picture(NamedTuple):
    rgb: jax.Array


@flax.struct.dataclass
class ToyState:
    data: dict[str, jax.Array]
    obs: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


def draw(data: dict[str, jax.Array], size: int) -> jax.Array:
    """uint8 [size, size, 3]: target red, gripper green."""
    line = (jnp.arange(size) + 0.5) / size * 2 - 1

    def blob(at: jax.Array) -> jax.Array:
        gap = (line[None, :] - at[0]) ** 2 + (line[:, None] - at[1]) ** 2
        return jnp.exp(-gap / (2 * 0.2**2))

    empty = jnp.zeros((size, size))
    picture = jnp.stack([blob(data["target"]), blob(data["gripper"]), empty], -1)
    return (255 * picture).astype(jnp.uint8)


class ToyReach:
    """Task 0: reach the dot. 1: get away from it. 2: as 0, but the metrics lie."""

    action_size = 2

    def __init__(self, image_size: int = 16):
        self.image_size = image_size

    def reset_task(self, key: jax.Array, task: jax.Array) -> ToyState:
        keys = jax.random.split(key)
        angle = jax.random.uniform(keys[0], maxval=2 * jnp.pi)
        gripper = jax.random.uniform(keys[1], (2,), minval=-0.3, maxval=0.3)
        target = gripper + 0.6 * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return self._state({"gripper": gripper, "target": target, "task": task})

    def step(self, state: ToyState, action: jax.Array) -> ToyState:
        data = state.data
        moved = jnp.clip(data["gripper"] + SPEED * 0.5 * action, -1.0, 1.0)
        return self._state({**data, "gripper": moved})

    def render(self, state: ToyState, view: str, size: int) -> Picture:
        return Picture(draw(state.data, size))

    def _state(self, data: dict[str, Any]) -> ToyState:
        gap = jnp.linalg.norm(data["gripper"] - data["target"])
        progress = jnp.clip(100 * (1 - gap / 0.6), -100.0, 100.0)
        progress = progress * jnp.array([1.0, -1.0, -0.37])[data["task"]]
        return ToyState(
            data=data,
            obs={
                "pixels/external": draw(data, self.image_size),
                "proprio": data["gripper"],
            },
            metrics={
                "progress": progress,
                "success": jnp.float32(progress > 75.0),
            },
        )


@pytest.fixture
def toy_reach() -> type[ToyReach]:
    """The class; tests choose its settings."""
    return ToyReach
