"""Proximal policy optimisation from pixels (arXiv 1707.06347), with GAE (1506.02438).

Episodes end by time, so the value after the last step is bootstrapped. A few worlds
act without noise and are left out of the loss: they show the policy as it will be used.

Letters: T control steps, B worlds, M worlds that are learned from, A action numbers.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from soler1_jax.common.errors import UserError
from soler1_jax.rl import networks, shards
from soler1_jax.rl.networks import EncoderConfig, Params
from soler1_jax.rl.types import Agent, Observation, Shapes, Trajectory

FINAL_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO.

    Attributes:
      worlds: episodes collected at once. On reaching, 64 took about two thirds of the
        control steps of 128, at the same time a step (one and two seeds).
      quiet: worlds that act without noise.
      epochs: passes over each iteration's steps.
      batch: steps in a gradient step.
      learning_rate: of Adam, at the first iteration.
      decay: iterations over which it falls linearly to `FINAL_RATE` of that.
      discount: per control step; rewards are scaled by 1 - discount.
      trace: lambda of generalised advantage estimation.
      clip: bound on the probability ratio.
      entropy: weight of the policy's entropy.
      value_weight: weight of the value loss. Advantages are normalised and values are
        not: squared errors of values below 1 are small beside the policy's loss.
      max_gradient: global norm at which gradients are cut.
      first_log_spread: initial log standard deviation of the actions.
      hidden: width of actor and critic.
      encoder: widths of the encoder.
    """

    worlds: int = 64
    quiet: int = 8
    epochs: int = 3
    batch: int = 320
    learning_rate: float = 7e-4
    decay: int = 120
    discount: float = 0.9
    trace: float = 0.9
    clip: float = 0.2
    entropy: float = 2e-3
    value_weight: float = 10.0
    max_gradient: float = 1.0
    first_log_spread: float = -0.5
    hidden: int = 128
    encoder: EncoderConfig = EncoderConfig()


@flax.struct.dataclass
class PPOState:
    """Everything PPO carries from iteration to iteration."""

    params: Params
    optimizer: Any


class Sample(NamedTuple):
    """Steps to learn from, [N, ...]."""

    seen: Observation
    action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    goal: jax.Array


def make_ppo(config: PPOConfig, shapes: Shapes, steps: int, devices: int = 1) -> Agent:
    """Builds the agent for episodes of `steps` control steps.

    Args:
      devices: number of them that share the worlds and the batches.

    Raises:
      UserError: a batch is larger than what an iteration collects, or the devices
        cannot share evenly.
    """
    learned = steps * (config.worlds - config.quiet)
    if not 0 < config.batch <= learned:
        raise UserError(
            f"PPO's batch must be within one iteration's {learned} learned steps; "
            f"got {config.batch}; use a smaller batch or more worlds"
        )
    config = dataclasses.replace(
        config,
        worlds=shards.share("worlds", config.worlds, devices),
        quiet=shards.share("worlds without noise", config.quiet, devices),
        batch=shards.share("samples of a batch", config.batch, devices),
    )
    total = learned // devices
    batches = total // config.batch
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_gradient),
        optax.adam(rate_schedule(config, config.epochs * batches)),
    )

    def init(key: jax.Array) -> PPOState:
        params = _init_networks(key, config, shapes)
        return PPOState(params, optimizer.init(params))

    def begin(state: PPOState, explore: jax.Array) -> jax.Array:
        noisy = jnp.arange(config.worlds) >= config.quiet
        return explore * noisy.astype(jnp.float32)

    def act(
        state: PPOState, carry: jax.Array, seen: Observation, key: jax.Array
    ) -> tuple[Any, jax.Array, dict]:
        mean, value = _heads(state.params, seen)
        log_spread = state.params["log_spread"]
        noise = jnp.exp(log_spread) * jax.random.normal(key, mean.shape)
        action = mean + carry[:, None] * noise
        log_prob = _log_prob(mean, log_spread, action)
        return carry, action, {"log_prob": log_prob, "value": value}

    def learn(
        state: PPOState, episode: Trajectory, key: jax.Array, enabled: jax.Array
    ) -> tuple[PPOState, dict]:
        data = _samples(config, state.params, episode)
        update = _make_update(config, optimizer, devices)

        def epoch(index: jax.Array, carry: Any) -> Any:
            order = jax.random.permutation(jax.random.fold_in(key, index), total)
            order = order[: batches * config.batch].reshape(batches, config.batch)

            def step(carry: Any, chosen: jax.Array) -> tuple[Any, None]:
                state, totals = carry
                state, metrics = update(state, jax.tree.map(lambda x: x[chosen], data))
                return (state, jax.tree.map(jnp.add, totals, metrics)), None

            return jax.lax.scan(step, carry, order)[0]

        names = ("policy_loss", "value_loss", "entropy", "clipped")
        totals = {name: jnp.float32(0) for name in names}
        # The bound is a run-time value: evaluation shares this compiled program.
        epochs = jnp.where(enabled, config.epochs, 0)
        with jax.named_scope("epochs"):
            state, totals = jax.lax.fori_loop(0, epochs, epoch, (state, totals))
        count = jnp.maximum(epochs * batches, 1)
        return state, {k: v / count for k, v in totals.items()}

    worlds, quiet = config.worlds, config.quiet
    functions = (init, begin, act, learn, _policy)
    return Agent("ppo", worlds, quiet, devices, *functions, "tanh")


def _policy(state: PPOState) -> Params:
    return {name: state.params[name] for name in ("encoder", "actor")}


def quiet_worlds(worlds: int, devices: int = 1) -> int:
    """How many of a policy's worlds should act without noise.

    As many as by default, or a few more so that all of its devices have as many; half of
    the worlds at most.

    Raises:
      UserError: a device has no world for each of the two kinds.
    """
    half = worlds // devices // 2
    if not half:
        raise UserError(
            "some worlds of a device explore and some do not, so it has at least 2; got "
            f"{worlds} worlds for {devices} devices; give {2 * devices}"
        )
    return devices * min(-(-PPOConfig.quiet // devices), half)


def rate_schedule(config: PPOConfig, updates: int) -> optax.Schedule:
    """Learning rate by gradient step, of which an iteration has `updates`.

    It falls so that the noise-free policy comes to rest: at a constant rate its success
    swings by tens of percent from one iteration to the next.
    """
    last = FINAL_RATE * config.learning_rate
    return optax.linear_schedule(config.learning_rate, last, config.decay * updates)


def advantages(
    reward: jax.Array, value: jax.Array, discount: float, trace: float
) -> jax.Array:
    """Generalised advantage estimation over one episode cut by time.

    Args:
      reward: float32 [T, B].
      value: float32 [T+1, B]; the last one bootstraps.

    Returns:
      float32 [T, B].
    """
    delta = reward + discount * value[1:] - value[:-1]

    def back(later: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        later = now + discount * trace * later
        return later, later

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), delta, reverse=True)[1]


def _init_networks(key: jax.Array, config: PPOConfig, shapes: Shapes) -> Params:
    keys = jax.random.split(key, 3)
    width = config.encoder.features + shapes.proprio
    sizes = (width, config.hidden, config.hidden)
    return {
        "encoder": networks.encoder_init(keys[0], shapes, config.encoder),
        "actor": networks.mlp_init(keys[1], (*sizes, shapes.action), 0.01),
        "value": networks.mlp_init(keys[2], (*sizes, 1)),
        "log_spread": jnp.full(shapes.action, config.first_log_spread, jnp.float32),
    }


def _heads(params: Params, seen: Observation) -> tuple[jax.Array, jax.Array]:
    features = networks.encode(params["encoder"], seen)
    mean = jnp.tanh(networks.mlp(params["actor"], features, jnp.tanh))
    return mean, networks.mlp(params["value"], features, jnp.tanh)[:, 0]


def _log_prob(mean: jax.Array, log_spread: jax.Array, action: jax.Array) -> jax.Array:
    """Log density of a diagonal normal, float32 [N]."""
    z = (action - mean) / jnp.exp(log_spread)
    return -jnp.sum(0.5 * z**2 + log_spread + 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def _samples(config: PPOConfig, params: Params, episode: Trajectory) -> Sample:
    """Flattens the noisy worlds' steps, with advantages and value targets."""
    last = jax.tree.map(lambda x: x[-1], episode.observation)
    value = episode.extras["value"]
    value = jnp.concatenate([value, _heads(params, last)[1][None]])
    reward = (1 - config.discount) * episode.reward
    gain = advantages(reward, value, config.discount, config.trace)
    sample = Sample(
        seen=jax.tree.map(lambda x: x[:-1], episode.observation),
        action=episode.action,
        log_prob=episode.extras["log_prob"],
        advantage=gain,
        goal=gain + value[:-1],
    )
    return jax.tree.map(
        lambda x: x[:, config.quiet :].reshape(-1, *x.shape[2:]), sample
    )


def _make_update(
    config: PPOConfig, optimizer: optax.GradientTransformation, devices: int
) -> Any:
    def loss(params: Params, data: Sample) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, value = _heads(params, data.seen)
        log_spread = params["log_spread"]
        ratio = jnp.exp(_log_prob(mean, log_spread, data.action) - data.log_prob)
        gain = data.advantage - shards.mean(jnp.mean(data.advantage), devices)
        spread = jnp.sqrt(shards.mean(jnp.mean(gain**2), devices))
        gain = gain / (spread + 1e-8)
        cut = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * gain, cut * gain))
        value_loss = jnp.mean((value - data.goal) ** 2)
        entropy = jnp.sum(log_spread + 0.5 * jnp.log(2 * jnp.pi * jnp.e))
        total = policy_loss + config.value_weight * value_loss
        clipped = jnp.mean((jnp.abs(ratio - 1) > config.clip).astype(jnp.float32))
        return total - config.entropy * entropy, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "clipped": clipped,
        }

    def update(state: PPOState, data: Sample) -> tuple[PPOState, dict]:
        gradient, metrics = jax.grad(loss, has_aux=True)(state.params, data)
        gradient = shards.mean(gradient, devices)
        change, memory = optimizer.update(gradient, state.optimizer)
        return PPOState(optax.apply_updates(state.params, change), memory), metrics

    return update
