"""Supervised training steps: first see, then compare frames and state progress.

The perception step looks at single frames. The query step encodes all frames of an
episode once, shares them among its queries, and keeps the perception losses on.
Letters: E episodes a batch, T frames each, Q queries each, F chosen frames each, M
names a frame, C = 8 classes, P patches. Batches are those of data/batches.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from soler1_jax.common.errors import (
    UserError,
    require_non_negative,
    require_positive,
)
from soler1_jax.data.records import SOURCES
from soler1_jax.training import losses, motion, perception
from soler1_jax.training.state import TrainState, apply_gradients, step_key

Metrics = dict[str, jax.Array]
Batch = Mapping[str, jax.Array]
# Merges a parameter tree into a model whose methods can be called.
Bind = Callable[[Any], Any]
# (bound model, batch, key) -> (loss, metrics).
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Weights of the losses, and how much perception a step holds.

    Attributes:
      perception_frames: frames of each episode in a perception step.
      perception_names: things named in each of them.
      query_names: things named in each frame of a query step, beside its prompts.
      perception_weight: of all perception losses in a query step.
      token_weight: of the cross-entropy of completion tokens.
      answer_weight: of an answer's tokens relative to a thought's.
      bins_weight: of the cross-entropy of the 41-bin head at the answer.
      glance_weight: of the same head before the thought. A true thought tells most of
        the answer, so without it the answer learns to read and not to look.
      bins_width: standard deviation of its soft labels in percent.
      state_weight: of the state head's squared error.
      wristless: how often an episode's wrist view is not used, so that the model also
        does without.
      nameless: how often a progress prompt is shown without its noun. The slot has
        found the thing; without the noun, only the verb can tell which motion of it is
        progress, also for a noun that was trained with one verb alone.
      act_weight: of the squared error of the act between two frames, as the model's
        comparison of them tells it.
    """

    perception_frames: int = 2
    perception_names: int = 3
    query_names: int = 1
    perception_weight: float = 0.5
    token_weight: float = 1.0
    answer_weight: float = 2.0
    bins_weight: float = 0.5
    glance_weight: float = 1.0
    bins_width: float = 5.0
    state_weight: float = 3.0
    act_weight: float = 3.0
    nameless: float = 0.5
    wristless: float = 0.1

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("perception_frames", self.perception_frames)
        require_positive("perception_names", self.perception_names)
        require_positive("bins_width", self.bins_width)
        for name in ("perception", "token", "answer", "bins", "glance", "state", "act"):
            require_non_negative(f"{name}_weight", getattr(self, f"{name}_weight"))
        for name in ("nameless", "wristless"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name} is a share; got {value}; give 0 to 1")


def flatten(x: jax.Array) -> jax.Array:
    """Joins the first two axes: [E,T,...] -> [E*T,...]."""
    return x.reshape(-1, *x.shape[2:])


def look(model: Any, batch: Batch, chosen: jax.Array | None = None) -> Any:
    """Encodes frames of a batch through all cameras that the model has.

    Args:
      model: bound model.
      batch: of data/batches.py.
      chosen: int32 [E,F], frames of each episode; None for all.

    Returns:
      FrameFeatures of E*F frames.
    """
    views = [batch["frames"], batch.get("wrist")]
    if chosen is not None:
        rows = jnp.arange(len(chosen))[:, None]
        views = [None if view is None else view[rows, chosen] for view in views]
    return model.encode(*[None if view is None else flatten(view) for view in views])


def without_wrist(
    features: Any, episodes: int, key: jax.Array, probability: float
) -> Any:
    """Closes the wrist's eye in some of E episodes; nothing changes without one."""
    if features.wrist is None:
        return features
    seen = jax.random.uniform(key, (episodes,)) >= probability
    frames = len(features.patches) // episodes
    return features._replace(wrist_seen=seen.repeat(frames))


def scenes_of(batch: Batch, chosen: jax.Array) -> perception.Scenes:
    """Truth of chosen frames.

    Args:
      batch: of data/batches.py.
      chosen: int32 [E,F], frames of each episode.

    Returns:
      Scenes of N = E*F frames.
    """
    count = chosen.shape[1]
    rows = jnp.arange(len(chosen))[:, None]
    return perception.Scenes(
        shares=flatten(batch["classes"][rows, chosen]),
        colors=batch["colors"].repeat(count, axis=0),
        shapes=batch["shapes"].repeat(count, axis=0),
        named=batch["named"].repeat(count, axis=0),
        facts=flatten(batch["facts"][rows, chosen]),
    )


def choose_names(
    key: jax.Array, scenes: perception.Scenes, has_name: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Draws things to name in each frame, without repetition.

    Args:
      key: random key.
      scenes: N frames.
      has_name: bool [N,C].
      count: M.

    Returns:
      Classes int32 [N,M]; bool [N,M], False where a frame has fewer to name.
    """
    possible = has_name.at[:, perception.GRIPPER].set(False)
    visible = scenes.shares.max(axis=1) > 0
    noise = jax.random.uniform(key, possible.shape)
    score = noise + 2.0 * (possible & visible) + 2.0 * possible
    which = jnp.argsort(-score, axis=1)[:, :count]
    return which, jnp.take_along_axis(possible, which, axis=1)


def perceive(
    model: Any,
    features: Any,
    scenes: perception.Scenes,
    names: tuple[jax.Array, jax.Array],
    key: jax.Array,
    count: int,
) -> Metrics:
    """All perception losses of N encoded frames.

    Args:
      model: bound model.
      features: FrameFeatures of N frames.
      scenes: truth of them.
      names: ids int32 [N,C,L] and mask bool [N,C,L] of the words for each class.
      key: draws which things are named.
      count: M, names a frame; 0 for none.
    """
    parts = perception.dense_loss(model.dense(features), scenes)
    if not count:
        return parts
    ids, mask, which, asked = _drawn_names(scenes, names, key, count)
    grounded = model.ground(features, ids, mask)
    return parts | perception.grounding_loss(grounded, which, asked, scenes)


def _drawn_names(
    scenes: perception.Scenes,
    names: tuple[jax.Array, jax.Array],
    key: jax.Array,
    count: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Words [N,M,L] of drawn things, their mask, classes and `choose_names`' bool."""
    ids, mask = names
    which, asked = choose_names(key, scenes, mask.any(-1), count)
    rows = jnp.arange(len(which))[:, None]
    return ids[rows, which], mask[rows, which], which, asked


def _names_of(batch: Batch, count: int) -> tuple[jax.Array, jax.Array]:
    return (
        batch["name_ids"].repeat(count, axis=0),
        batch["name_mask"].repeat(count, axis=0),
    )


def perception_loss(
    model: Any, batch: Batch, key: jax.Array, config: SftConfig
) -> tuple[jax.Array, Metrics]:
    """The loss of a perception step on random frames of each episode.

    Things are named by their names and, the task's thing, by the task's sentence (the
    episode's first query, which must be one of progress); and the frames of an episode
    are compared with each other.
    """
    episodes, length = batch["frames"].shape[:2]
    count = min(config.perception_frames, length)
    frame_key, name_key, wrist_key = jax.random.split(key, 3)
    chosen = jnp.argsort(jax.random.uniform(frame_key, (episodes, length)))[:, :count]
    rows = jnp.arange(episodes)[:, None]
    features = look(model, batch, chosen)
    scenes = scenes_of(batch, chosen)
    parts = perception.dense_loss(model.dense(features), scenes)
    features = without_wrist(features, episodes, wrist_key, config.wristless)
    ids, mask, which, asked = _drawn_names(
        scenes, _names_of(batch, count), name_key, config.perception_names
    )
    told, told_mask = (
        batch[k][:, 0].repeat(count, axis=0)[:, None]
        for k in ("prompt_ids", "prompt_mask")
    )
    more = ((0, 0), (0, 0), (0, max(told.shape[2] - ids.shape[2], 0)))
    grounded = model.ground(
        features,
        jnp.concatenate([told, jnp.pad(ids, more)], axis=1),
        jnp.concatenate([told_mask, jnp.pad(mask, more)], axis=1),
    )
    which = jnp.concatenate([scenes.named[:, None], which], axis=1)
    asked = jnp.pad(asked, ((0, 0), (1, 0)), constant_values=True)
    parts |= perception.grounding_loss(grounded, which, asked, scenes)
    see = perception.total(parts)
    act = motion.act_error(
        model,
        [jax.tree.map(lambda x, i=i: x[i::count], grounded) for i in range(count)],
        (batch["prompt_ids"][:, 0], batch["prompt_mask"][:, 0]),
        perception.column(batch["facts"][rows, chosen], "act"),
        jnp.ones((episodes, count), bool),
    )
    loss = see + config.act_weight * act
    return loss, {"loss": loss, "act": act, **parts}


def ask(
    model: Any, features: Any, batch: Batch, prompts: jax.Array | None = None
) -> tuple[Any, Any]:
    """Puts the batch's questions to encoded frames.

    Args:
      model: bound model.
      features: FrameFeatures of E*T frames.
      batch: of data/batches.py.
      prompts: int32 [E,Q,L], what the decoder reads; None for the batch's prompts, by
        which things are found in any case.

    Returns:
      The prefix of E*Q questions, and Grounded [E*Q*3, ...].
    """
    episodes, length = batch["frames"].shape[:2]
    shown = batch["shown"] + (jnp.arange(episodes) * length)[:, None, None]
    picked = jax.tree.map(lambda x: x[shown.reshape(-1)], features)
    ids, mask = flatten(batch["prompt_ids"]), flatten(batch["prompt_mask"])
    grounded = model.ground(picked, ids.repeat(3, axis=0), mask.repeat(3, axis=0))
    frames = [jax.tree.map(lambda x, i=i: x[i::3], grounded) for i in range(3)]
    read = ids if prompts is None else flatten(prompts)
    prefix = model.prefix(frames, read, mask, flatten(batch["shown_mask"]))
    return prefix, grounded


def _prompt_grounding(grounded: Any, batch: Batch) -> Metrics:
    """Heat and position losses of the thing that a progress prompt names."""
    episodes, queries = batch["source"].shape
    chosen = batch["shown"].reshape(episodes, queries * 3)
    scenes = scenes_of(batch, chosen)
    is_progress = batch["source"] == SOURCES.index("progress")
    asked = batch["shown_mask"] & is_progress[..., None]
    which = batch["named"].repeat(queries * 3)
    return perception.grounding_loss(
        grounded, which[:, None], asked.reshape(-1, 1), scenes
    )


def _act_of_queries(model: Any, grounded: Any, batch: Batch) -> jax.Array:
    rows = jnp.arange(len(batch["facts"]))[:, None, None]
    acts = perception.column(batch["facts"][rows, batch["shown"]], "act")
    judged = (batch["source"] == SOURCES.index("progress"))[..., None]
    return motion.act_error(
        model,
        [jax.tree.map(lambda x, i=i: x[i::3], grounded) for i in range(3)],
        (flatten(batch["prompt_ids"]), flatten(batch["prompt_mask"])),
        flatten(acts),
        flatten(batch["shown_mask"] & judged),
    )


def query_loss(
    model: Any, batch: Batch, key: jax.Array, config: SftConfig, answer_id: int
) -> tuple[jax.Array, Metrics]:
    """The loss of a query step.

    Args:
      model: bound model.
      batch: of data/batches.py.
      key: draws which things are named, and which prompts lose their noun.
      config: weights.
      answer_id: token id of `<answer>`.
    """
    episodes, length = batch["frames"].shape[:2]
    everything = jnp.tile(jnp.arange(length), (episodes, 1))
    name_key, noun_key, wrist_key = jax.random.split(key, 3)
    features = look(model, batch)
    features = without_wrist(features, episodes, wrist_key, config.wristless)
    names = _names_of(batch, length)
    scenes = scenes_of(batch, everything)
    parts = perceive(model, features, scenes, names, name_key, config.query_names)
    prompts = motion.without_nouns(batch, noun_key, config.nameless)
    prefix, grounded = ask(model, features, batch, prompts)
    prompted = _prompt_grounding(grounded, batch)
    ids, mask = flatten(batch["completion_ids"]), flatten(batch["completion_mask"])
    outputs = model.logits(prefix, ids, mask)
    progress = batch["progress"].reshape(-1)
    judged = (batch["source"] == SOURCES.index("progress")).reshape(-1)
    opened = jnp.cumsum(ids == answer_id, axis=1) > 0
    answer = opened & (ids != answer_id) & mask
    weights = mask * jnp.where(answer, config.answer_weight, 1.0)
    first = jnp.argmax(answer, axis=1)
    values = losses.answer_values(outputs.value_logits, first)
    rows = jnp.arange(episodes)[:, None]
    current = flatten(batch["facts"][rows, batch["shown"][..., 2]])
    see = perception.total(parts) + perception.total(prompted)
    taught = {
        "tokens": losses.next_token(outputs.logits, ids, weights),
        "bins": losses.value_bins(values, progress, judged, config.bins_width),
        "glance": losses.value_bins(
            outputs.value_logits[:, 0], progress, judged, config.bins_width
        ),
        "state": losses.state_error(
            outputs.state, perception.state_target(current), judged
        ),
        "act": _act_of_queries(model, grounded, batch),
    }
    loss = (
        config.perception_weight * see
        + config.token_weight * taught["tokens"]
        + config.bins_weight * taught["bins"]
        + config.glance_weight * taught["glance"]
        + config.state_weight * taught["state"]
        + config.act_weight * taught["act"]
    )
    counted = {
        "answer_tokens": losses.next_token(outputs.logits, ids, answer),
        "named_peak": prompted["named_peak"],
        "perception": see,
    }
    return loss, {"loss": loss, **taught, **counted}


def make_step(
    loss_fn: LossFn,
    bind: Bind,
    optimizer: optax.GradientTransformation,
    shardings: Any = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns a jitted step (state, batch) -> (state, metrics); the state is donated.

    Args:
      loss_fn: (bound model, batch, key) -> (loss, metrics).
      bind: parameters -> model.
      optimizer: see optimizer.py.
      shardings: of the state, see `state.state_shardings`; None on one device.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def loss_of(params: Any) -> tuple[jax.Array, Metrics]:
            return loss_fn(bind(params), batch, step_key(state))

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state, measured = apply_gradients(state, loss, grads, optimizer)
        return state, metrics | measured

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
