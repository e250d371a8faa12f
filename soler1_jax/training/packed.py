"""Supervised training of a video-language model on packed rows, over a mesh.

One step encodes the pictures of all rows, puts their tokens among the words, decodes,
and sums the cross-entropy of thought and answer without ever holding their logits.

Letters: B rows, T tokens of a row, N pictures of a row, K tokens of a picture, D
channels, Ls DeepStack levels, V words.
Source of the loss: arXiv 2603.28730, section 5 (next token of thought and answer).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data.packing import PackedRows
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.vlm import VLM
from soler1_jax.training import state as states
from soler1_jax.training.adapters import join
from soler1_jax.training.chunked_cross_entropy import Head, token_logprobs
from soler1_jax.training.losses import masked_mean
from soler1_jax.training.state import TrainState

BATCH_AXES = ("data", "fsdp")
_KERNELS = ("kernel", "lora_a", "lora_b")

Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedConfig:
    """How a step is cut into pieces; the result is the same for all values.

    Attributes:
      microbatches: parts of a batch whose gradients are summed one after another.
      tile: words of the vocabulary whose logits are held at a time.
    """

    microbatches: int = 1
    tile: int = 2048

    def __post_init__(self) -> None:
        """Raises UserError for values that are not positive."""
        require_positive("microbatches", self.microbatches)
        require_positive("tile", self.tile)


def targets(rows: PackedRows) -> tuple[jax.Array, jax.Array]:
    """What each place predicts.

    Returns:
      int32 [B, T], the token that follows, and float32 [B, T], what it counts for: 0
      where another record or padding follows.
    """
    segments, weights = jnp.asarray(rows.segments), jnp.asarray(rows.weights)
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    counted = jnp.where(inside, weights[:, 1:].astype(jnp.float32), 0)
    return jnp.roll(rows.ids, -1, axis=1), jnp.pad(counted, ((0, 0), (0, 1)))


def embed(
    model: VLM, rows: PackedRows, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """Puts the pictures' tokens among the words.

    Args:
      model: with a linear stem.
      rows: the batch.
      mesh: where activations are split by row; None for one device.

    Returns:
      [B, T, D] and DeepStack levels [B, Ls, T, D], in the model's dtype.
    """
    frames = jax.tree.map(lambda a: jax.lax.collapse(a, 0, 2), rows.patches)
    features = model.encode_patches(frames)
    batch, pictures = jnp.shape(rows.patches.mask)[:2]
    # Each row looks up its own pictures only, so that no device needs another's.
    tokens = features.tokens.reshape(batch, -1, features.tokens.shape[-1])
    levels = features.deepstack.reshape(batch, pictures, *features.deepstack.shape[1:])
    levels = jax.lax.collapse(jnp.moveaxis(levels, 2, 1), 2, 4)
    source = jnp.asarray(rows.source)
    pictured, chosen = (source >= 0)[..., None], jnp.maximum(source, 0)[..., None]
    words = model.embed_tokens(rows.ids, model.config.dtype)
    shown = jnp.take_along_axis(tokens, chosen, axis=1)
    added = jnp.take_along_axis(levels, chosen[:, None], axis=2)
    return (
        by_row(jnp.where(pictured, shown, words), mesh),
        by_row(jnp.where(pictured[:, None], added, 0), mesh),
    )


def hidden_states(model: VLM, rows: PackedRows, mesh: Mesh | None = None) -> jax.Array:
    """Runs pictures and words through a model with a causal decoder.

    Returns:
      Normed [B, T, D] in the model's dtype; see `embed` for the arguments.
    """
    embeds, levels = embed(model, rows, mesh)
    hidden, _ = model.language_model(
        embeds,
        jnp.asarray(rows.positions),
        None,
        levels,
        segments=jnp.asarray(rows.segments),
    )
    return by_row(hidden, mesh)


def loss(
    model: VLM, rows: PackedRows, config: PackedConfig, mesh: Mesh | None = None
) -> jax.Array:
    """Mean cross-entropy in nats of what counts, weighted; 0 if nothing does."""
    return masked_mean(-_logprobs(model, rows, config, mesh), targets(rows)[1])


def make_step(
    functions: Functional,
    optimizer: optax.GradientTransformation,
    config: PackedConfig,
    mesh: Mesh,
    shardings: TrainState,
    frozen: Any = None,
) -> Step:
    """Compiles the step when it is first called; it consumes the state it is given.

    Args:
      functions: of the model.
      optimizer: of training/optimizer.py; in float32 if parameters are bfloat16.
      config: pieces.
      mesh: of the devices; batches are split by row over data and fsdp.
      shardings: of `state.state_shardings`.
      frozen: shardings of the parameters that are not trained, as `adapters.split` takes
        them from the others; None where all are.

    Returns:
      (state, rows) -> (state, metrics): `loss` in nats, `tokens` the weights' sum, and
      those of `state.apply_gradients`. With `frozen`, those parameters come last.

    Raises:
      UserError: the model cannot be trained on packed rows; or, when called, the mesh
        and the microbatches do not divide the rows.
    """
    check_model(functions.config)

    def step(
        state: TrainState, rows: PackedRows, *rest: Params
    ) -> tuple[TrainState, dict[str, Any]]:
        check_rows(rows.ids.shape[0], config, mesh)
        total = jnp.sum(targets(rows)[1])

        def share(trained: Params, part: PackedRows) -> jax.Array:
            params = join(trained, rest[0]) if rest else trained
            model = functions.module(lowered(params, functions.config.dtype))
            weights = targets(part)[1]
            losses = -_logprobs(model, part, config, mesh) * weights
            return jnp.sum(losses) / jnp.maximum(total, 1e-6)

        # Attention is a kernel on accelerators, which XLA cannot split by itself.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            value, grads = _accumulate(
                jax.value_and_grad(share), state.params, rows, config.microbatches
            )
        state, metrics = states.apply_gradients(state, value, grads, optimizer)
        return state, {"loss": value, "tokens": total, **metrics}

    return jax.jit(
        step,
        in_shardings=(
            shardings,
            meshes.batch_sharding(mesh),
            *(() if frozen is None else (frozen,)),
        ),
        out_shardings=(shardings, meshes.replicated(mesh)),
        donate_argnums=0,
    )


def check_model(config: ModelConfig) -> None:
    """Raises UserError unless packed rows suit the model."""
    text = config.text
    causal = text.prefix_attention == "causal" and not text.sliding_layers
    if config.vision.stem != "linear" or config.grounding or not causal:
        raise UserError(
            "packed rows need a causal decoder with pictures among its words; got model "
            f"{config.name!r}; use a Qwen3-VL, or `soler1 sft` for our own models"
        )


def _logprobs(
    model: VLM, rows: PackedRows, config: PackedConfig, mesh: Mesh | None
) -> jax.Array:
    """Log-probability of what follows each place that counts, float32 [B, T]; else 0."""
    hidden = hidden_states(model, rows, mesh)
    head = Head(tile=config.tile, mesh=mesh)
    wanted, weights = targets(rows)
    return read_logprobs(model, hidden, wanted, head, weights != 0)


def read_logprobs(
    model: VLM,
    hidden: jax.Array,
    targets: jax.Array,
    head: Head,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Log-probability of each target by the model's own output matrix and cap.

    Args:
      model: whose words they are.
      hidden: [..., D], of which each predicts one target.
      targets: int32 [...].
      head: temperature, tile and mesh; the rest is the model's.
      counted: of `token_logprobs`.

    Returns:
      float32 [...], nats.
    """
    text = model.config.text
    tied = text.tie_embeddings
    head = dataclasses.replace(
        head, vocab_axis=0 if tied else 1, cap=text.final_logit_softcapping
    )
    table = model.embed_tokens.embedding if tied else model.lm_head.kernel
    return token_logprobs(hidden, table[...], targets, head, counted)


def lowered(params: Params, dtype: str, *, head: bool = False) -> Params:
    """Kernels in the dtype in which they are used.

    Every layer would round them anyway. Rounded before, they are gathered from the
    other devices at half the bytes.

    Args:
      params: of the model.
      dtype: of activations.
      head: whether to round the table of words and the output matrix too, which every
        token that is written multiplies whole. While training, tiles of them are
        rounded where they are used.
    """

    def lower(path: Any, leaf: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        of_head = names[0] in ("lm_head", "embed_tokens")
        used = head if of_head else names[-1] in _KERNELS
        return leaf.astype(dtype) if used else leaf

    return jax.tree_util.tree_map_with_path(lower, params)


def _accumulate(
    function: Callable[[Params, PackedRows], Any],
    params: Params,
    rows: PackedRows,
    parts: int,
) -> tuple[jax.Array, Params]:
    """Sums values and gradients of `function` over microbatches, in float32."""
    if parts == 1:
        return function(params, rows)
    # Every device deals its own rows out, so that none is sent to another.
    cut = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), rows
    )

    def add(total: Any, part: PackedRows) -> tuple[Any, None]:
        found = function(params, part)
        return jax.tree.map(lambda t, f: t + f.astype(t.dtype), total, found), None

    first = (
        jnp.float32(0),
        jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params),
    )
    return jax.lax.scan(add, first, cut)[0]


def check_rows(count: int, config: PackedConfig, mesh: Mesh) -> None:
    """Raises UserError unless the mesh and the microbatches divide a batch of `count`."""
    parts = config.microbatches * mesh.shape["data"] * mesh.shape["fsdp"]
    if count % parts:
        raise UserError(
            f"the mesh and {config.microbatches} microbatches split a batch into {parts} "
            f"parts; got {count} rows; give a multiple of {parts}"
        )


def by_row(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """[B, ...] split by row and whole otherwise: weights come to the rows, not rows to them."""
    if mesh is None:
        return x
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return jax.lax.with_sharding_constraint(x, place)
