"""The contract between a rewarder and whatever asks it for progress.

A rewarder watches the first frame of an episode, then is asked at later frames for the
task's progress in percent. `start` and `score` are pure functions over pytrees, so they
run inside `jit`, `scan` and `vmap` as well as outside. Letters: B episodes, L words of
the task, S generated tokens, H W pixels.

Progress is signed percent in [-100, 100]; it is 0 at the first frame by definition and
the first frame is not scored (arXiv 2603.28730, section 3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

# "external" and/or "wrist" -> uint8 [B, H, W, 3], RGB.
Views = dict[str, jax.Array]
EpisodeState = Any

BIN_COUNT = 41
MAX_PROGRESS = 100.0


def bin_centers() -> jax.Array:
    """Progress in percent of the 41 bins of `Verdict.distribution`, float32 [41]."""
    return jnp.linspace(-MAX_PROGRESS, MAX_PROGRESS, BIN_COUNT)


class TaskText(NamedTuple):
    """Task sentences as token ids."""

    ids: jax.Array  # int32 [B, L]
    mask: jax.Array  # bool [B, L], False on padding


@flax.struct.dataclass
class Verdict:
    """What a rewarder says of one frame of each episode."""

    progress: jax.Array  # float32 [B], percent in [-100, 100]: the answer read out
    expected: jax.Array  # float32 [B], mean of `distribution`, percent
    distribution: jax.Array  # float32 [B, 41] over `bin_centers()`, sums to 1
    entropy: jax.Array  # float32 [B], nats, of `distribution`
    tokens: jax.Array  # int32 [B, S], thought and answer, 0 after the end
    parsed: jax.Array  # bool [B], whether the text held a number
    logprob: jax.Array  # float32 [B], sum over the tokens generated, or of the one read
    # Probability that the task is done, float32 [B]; None from those that do not say.
    success: jax.Array | None = None


@flax.struct.dataclass
class Rewarder:
    """Anything that scores progress.

    Attributes:
      name: what the user called it.
      views: camera views that `start` and `score` need; empty for none.
      dispensable: those of `views` that it can do without, if nobody has them.
      image_size: side of the square views in pixels; 0 if `views` is empty.
      uses_truth: whether `score` is handed the true progress. Only the oracle, an upper
        bound, is; every other rewarder gets None.
      params: pytree of weights, passed back as the first argument.
      start: (params, views, task, key) -> EpisodeState.
      score: (params, state, views, key, truth) -> (EpisodeState, Verdict).
      prepare: sentences -> TaskText; runs on the host.
      decode: int32 [S] tokens of one verdict -> text; runs on the host.
      fit: frames of a video, uint8 [T, H, W, 3] of any size -> those that it is shown, on
        the host; None for squares of `image_size` with black borders.
      settle: state of one episode after `start`, and all Q verdicts on it -> progress
        float32 [Q], for those whose progress depends on later queries; on the host.
    """

    params: Any
    name: str = flax.struct.field(pytree_node=False)
    views: tuple[str, ...] = flax.struct.field(pytree_node=False)
    image_size: int = flax.struct.field(pytree_node=False)
    uses_truth: bool = flax.struct.field(pytree_node=False)
    start: Callable[..., EpisodeState] = flax.struct.field(pytree_node=False)
    score: Callable[..., tuple[EpisodeState, Verdict]] = flax.struct.field(
        pytree_node=False
    )
    prepare: Callable[[list[str]], TaskText] = flax.struct.field(pytree_node=False)
    decode: Callable[[Any], str] = flax.struct.field(pytree_node=False)
    dispensable: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    fit: Callable[[Any], Any] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    settle: Callable[[EpisodeState, Verdict], Any] | None = flax.struct.field(
        pytree_node=False, default=None
    )


def certain_verdict(progress: jax.Array, token_count: int = 0) -> Verdict:
    """Returns the verdict of a rewarder without doubt or words.

    Args:
      progress: float32 [B], percent; clipped to [-100, 100].
      token_count: S, for callers that stack verdicts of several rewarders.

    Returns:
      A Verdict whose distribution shares its mass between the two nearest bins, so
      that `expected` equals `progress`.
    """
    progress = jnp.clip(progress.astype(jnp.float32), -MAX_PROGRESS, MAX_PROGRESS)
    distribution = two_hot(progress)
    batch = progress.shape[0]
    return Verdict(
        progress=progress,
        expected=progress,
        distribution=distribution,
        entropy=entropy(distribution),
        tokens=jnp.zeros((batch, token_count), jnp.int32),
        parsed=jnp.ones(batch, bool),
        logprob=jnp.zeros(batch, jnp.float32),
    )


def two_hot(progress: jax.Array) -> jax.Array:
    """Splits percent [...] between its two nearest bins: float32 [..., 41]."""
    position = (jnp.clip(progress, -MAX_PROGRESS, MAX_PROGRESS) + MAX_PROGRESS) / (
        2 * MAX_PROGRESS / (BIN_COUNT - 1)
    )
    offset = jnp.abs(position[..., None] - jnp.arange(BIN_COUNT))
    return jnp.maximum(1.0 - offset, 0.0)


def entropy(distribution: jax.Array) -> jax.Array:
    """Shannon entropy in nats over the last axis."""
    return -jnp.sum(jax.scipy.special.xlogy(distribution, distribution), axis=-1)
