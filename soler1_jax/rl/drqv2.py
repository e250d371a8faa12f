"""DrQ-v2: deterministic off-policy actor and critic from pixels (arXiv 2107.09645).

Differences from the paper, each measured to matter on these short episodes: learning
happens between episodes, half of the worlds act without noise (so that the policy's
own behaviour is in the replay), the other half climb a ladder of noise levels, noise is
correlated in time, and actions before the squashing are penalised, which keeps a
saturated action from drowning the noise.

Letters: B worlds, N samples of a batch, A action numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from soler1_jax.common.errors import UserError
from soler1_jax.rl import networks, replay, shards
from soler1_jax.rl.augment import random_shift
from soler1_jax.rl.networks import EncoderConfig, Params
from soler1_jax.rl.types import Agent, Observation, Shapes, Trajectory


@dataclasses.dataclass(frozen=True)
class DrQConfig:
    """Settings of DrQ-v2.

    Attributes:
      worlds: episodes collected at once.
      updates: gradient steps after each iteration of `worlds` episodes.
      batch: transitions in a gradient step.
      learning_rate: of Adam, for actor, critic and encoder.
      discount: per control step. Rewards are scaled by 1 - discount, so values are on
        the scale of a single reward.
      horizon: n of the n-step return.
      tau: share of the critic that its target takes over in each gradient step.
      shift: largest random shift of an image, pixels.
      capacity: episodes of all worlds that the replay ring holds.
      quiet: fraction of the worlds that act without noise.
      noise_start, noise_end, noise_iterations: linear schedule of the lowest standard
        deviation among the noisy worlds; their ladder goes from there up to
        `noise_start`.
      correlation: of the noise from one control step to the next.
      smoothing, smoothing_clip: noise on the actions inside the losses, and its bound.
      penalty: weight of the squared action before the squashing.
      hidden: width of actor and critic.
      encoder: widths of the encoder.
    """

    worlds: int = 32
    updates: int = 160
    batch: int = 64
    learning_rate: float = 7e-4
    discount: float = 0.9
    horizon: int = 3
    tau: float = 0.01
    shift: int = 2
    capacity: int = 50
    quiet: float = 0.5
    noise_start: float = 1.0
    noise_end: float = 0.2
    noise_iterations: int = 12
    correlation: float = 0.5
    smoothing: float = 0.2
    smoothing_clip: float = 0.3
    penalty: float = 5e-3
    hidden: int = 256
    encoder: EncoderConfig = EncoderConfig()

    @property
    def quiet_worlds(self) -> int:
        """Worlds that act without noise; at least one is noisy."""
        return min(round(self.quiet * self.worlds), self.worlds - 1)


@flax.struct.dataclass
class DrQState:
    """Everything DrQ-v2 carries from iteration to iteration."""

    critic: Params  # "encoder", "heads"
    target: Params  # the heads' slow copy
    actor: list[Params]
    critic_optimizer: Any
    actor_optimizer: Any
    replay: replay.Replay
    iteration: jax.Array  # int32 [], learning iterations done


def make_drqv2(
    config: DrQConfig, shapes: Shapes, steps: int, devices: int = 1
) -> Agent:
    """Builds the agent for episodes of `steps` control steps.

    Args:
      devices: number of them that share the worlds, the replay and the batches.

    Raises:
      UserError: a batch is larger than what an iteration collects, or the devices
        cannot share evenly.
    """
    config = dataclasses.replace(
        config,
        worlds=shards.share("worlds", config.worlds, devices),
        batch=shards.share("samples of a batch", config.batch, devices),
    )
    total = steps * config.worlds
    if not 0 < config.batch <= total:
        raise UserError(
            f"DrQ-v2's batch must be within one iteration's {total} steps; "
            f"got {config.batch}; use a smaller batch or more worlds"
        )
    optimizer = optax.adam(config.learning_rate)
    quiet = config.quiet_worlds

    def init(key: jax.Array) -> DrQState:
        critic, actor = _init_networks(key, config, shapes)
        return DrQState(
            critic=critic,
            # A donated tree must not hold one array twice.
            target=jax.tree.map(jnp.copy, critic["heads"]),
            actor=actor,
            critic_optimizer=optimizer.init(critic),
            actor_optimizer=optimizer.init(actor),
            replay=replay.empty(config.capacity, steps, config.worlds, shapes),
            iteration=jnp.int32(0),
        )

    def begin(state: DrQState, explore: jax.Array) -> tuple[jax.Array, jax.Array]:
        spread = explore * noise_ladder(config, state.iteration)
        return spread, jnp.zeros((config.worlds, shapes.action))

    def act(
        state: DrQState, carry: Any, seen: Observation, key: jax.Array
    ) -> tuple[Any, jax.Array, dict]:
        spread, noise = carry
        rho = config.correlation
        fresh = jax.random.normal(key, noise.shape)
        noise = rho * noise + jnp.sqrt(1 - rho**2) * fresh
        features = networks.encode(state.critic["encoder"], seen)
        mean = jnp.tanh(networks.mlp(state.actor, features, jax.nn.relu))
        action = jnp.clip(mean + spread[:, None] * noise, -1.0, 1.0)
        return (spread, noise), action, {}

    def learn(
        state: DrQState, episode: Trajectory, key: jax.Array, enabled: jax.Array
    ) -> tuple[DrQState, dict]:
        ring = replay.insert(state.replay, episode, enabled)
        learner = state.replace(replay=None)
        update = _make_update(config, optimizer, devices)

        def body(index: jax.Array, carry: Any) -> Any:
            learner, totals = carry
            learner, metrics = update(learner, ring, jax.random.fold_in(key, index))
            return learner, jax.tree.map(jnp.add, totals, metrics)

        totals = {name: jnp.float32(0) for name in ("critic_loss", "actor_loss", "q")}
        # The bound is a run-time value: evaluation shares this compiled program.
        count = jnp.where(enabled, config.updates, 0)
        learner, totals = jax.lax.fori_loop(0, count, body, (learner, totals))
        metrics = {k: v / jnp.maximum(count, 1) for k, v in totals.items()}
        learner = learner.replace(
            replay=ring, iteration=state.iteration + enabled.astype(jnp.int32)
        )
        return learner, metrics

    functions = (init, begin, act, learn, _policy)
    return Agent("drqv2", config.worlds, quiet, devices, *functions, "relu")


def _policy(state: DrQState) -> Params:
    return {"encoder": state.critic["encoder"], "actor": state.actor}


def noise_ladder(config: DrQConfig, iteration: jax.Array) -> jax.Array:
    """Standard deviation of the exploration noise of each world, float32 [B]."""
    done = jnp.clip(iteration / max(config.noise_iterations, 1), 0.0, 1.0)
    low = config.noise_start + done * (config.noise_end - config.noise_start)
    quiet = config.quiet_worlds
    rungs = jnp.linspace(0.0, 1.0, config.worlds - quiet)
    ladder = low + rungs * (config.noise_start - low)
    return jnp.concatenate([jnp.zeros(quiet), ladder])


def _init_networks(
    key: jax.Array, config: DrQConfig, shapes: Shapes
) -> tuple[Params, list[Params]]:
    keys = jax.random.split(key, 4)
    width = config.encoder.features + shapes.proprio
    sizes = (width + shapes.action, config.hidden, config.hidden, 1)
    critic = {
        "encoder": networks.encoder_init(keys[0], shapes, config.encoder),
        "heads": [networks.mlp_init(k, sizes, 0.1) for k in keys[1:3]],
    }
    sizes = (width, config.hidden, config.hidden, shapes.action)
    return critic, networks.mlp_init(keys[3], sizes, 0.01)


def _values(heads: list[Any], features: jax.Array, action: jax.Array) -> jax.Array:
    """Both critics' values of N actions, float32 [2, N]."""
    x = jnp.concatenate([features, action], axis=-1)
    return jnp.stack([networks.mlp(head, x, jax.nn.relu)[:, 0] for head in heads])


def _make_update(
    config: DrQConfig, optimizer: optax.GradientTransformation, devices: int
) -> Callable[..., tuple[DrQState, dict[str, jax.Array]]]:
    def smooth(mean: jax.Array, key: jax.Array) -> jax.Array:
        noise = config.smoothing * jax.random.normal(key, mean.shape)
        noise = jnp.clip(noise, -config.smoothing_clip, config.smoothing_clip)
        return jnp.clip(mean + noise, -1.0, 1.0)

    def critic_loss(
        critic: Params, state: DrQState, batch: replay.Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        features = networks.encode(critic["encoder"], batch.now)
        later = jax.lax.stop_gradient(networks.encode(critic["encoder"], batch.later))
        mean = jnp.tanh(networks.mlp(state.actor, later, jax.nn.relu))
        future = jnp.min(_values(state.target, later, smooth(mean, key)), axis=0)
        goal = (1 - config.discount) * batch.reward + batch.discount * future
        values = _values(critic["heads"], features, batch.action)
        error = values - jax.lax.stop_gradient(goal)
        loss = jnp.mean(jnp.sum(error**2, axis=0))
        return loss, (jax.lax.stop_gradient(features), jnp.mean(values))

    def actor_loss(
        actor: list[Params], heads: list[Any], features: jax.Array, key: jax.Array
    ) -> jax.Array:
        raw = networks.mlp(actor, features, jax.nn.relu)
        values = _values(heads, features, smooth(jnp.tanh(raw), key))
        return config.penalty * jnp.mean(raw**2) - jnp.mean(jnp.min(values, axis=0))

    def update(
        state: DrQState, ring: replay.Replay, key: jax.Array
    ) -> tuple[DrQState, dict[str, jax.Array]]:
        keys = jax.random.split(key, 5)
        batch = replay.sample(
            ring, keys[0], config.batch, config.discount, config.horizon
        )
        batch = batch._replace(
            now=_shifted(keys[1], batch.now, config.shift),
            later=_shifted(keys[2], batch.later, config.shift),
        )
        (loss, (features, q)), gradient = jax.value_and_grad(critic_loss, has_aux=True)(
            state.critic, state, batch, keys[3]
        )
        gradient = shards.mean(gradient, devices)
        change, critic_memory = optimizer.update(gradient, state.critic_optimizer)
        critic = optax.apply_updates(state.critic, change)
        policy_loss, gradient = jax.value_and_grad(actor_loss)(
            state.actor, critic["heads"], features, keys[4]
        )
        gradient = shards.mean(gradient, devices)
        change, actor_memory = optimizer.update(gradient, state.actor_optimizer)
        state = state.replace(
            critic=critic,
            target=optax.incremental_update(critic["heads"], state.target, config.tau),
            actor=optax.apply_updates(state.actor, change),
            critic_optimizer=critic_memory,
            actor_optimizer=actor_memory,
        )
        return state, {"critic_loss": loss, "actor_loss": policy_loss, "q": q}

    return update


def _shifted(key: jax.Array, seen: Observation, pad: int) -> Observation:
    return seen._replace(pixels=random_shift(key, seen.pixels, pad))
