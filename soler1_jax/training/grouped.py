"""GRPO of a video-language model whose prompts are computed once for all completions.

A prompt with its pictures is long and its G completions are short. The sampler runs the
prompt once and lets G sequences continue from its cache; the update runs each prompt
once, with all of its completions behind it in one row (model/shared_attention.py), and
its gradient sums over them.

Letters: B prompts, P places of a prompt, G completions of each, S tokens, D channels.
Source: GRPO (arXiv 2402.03300); paper arXiv 2603.28730, section 6.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError
from soler1_jax.data.packing import PackedRows
from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.prefix import Prefix
from soler1_jax.model.shared_attention import SharedPrompt
from soler1_jax.model.vlm import VLM
from soler1_jax.sampling import unconstrained
from soler1_jax.sampling.methods import Method
from soler1_jax.training import grpo, mismatch, packed
from soler1_jax.training.adapters import join
from soler1_jax.training.chunked_cross_entropy import Head
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.state import TrainState, apply_gradients

Metrics = dict[str, jax.Array]


class Completions(NamedTuple):
    """What was written to each prompt, and what it earned."""

    tokens: ArrayLike  # int32 [B, G, S]
    lengths: ArrayLike  # int32 [B, G], tokens written, the stop token included
    ended: ArrayLike  # bool [B, G], False where the budget ended the text
    sampled: ArrayLike  # float32 [B, G, S], log-probabilities that the sampler noted
    rewards: ArrayLike  # float32 [B, G]


def prompt_prefix(
    model: VLM, prompts: PackedRows, mesh: Mesh | None = None
) -> tuple[Prefix, jax.Array]:
    """Embeds prompts.

    Args:
      model: with a linear stem and a causal decoder.
      prompts: one record a row, padded on the right; its weights are not looked at.
      mesh: where activations are split by row; None for one device.

    Returns:
      The prefix, and the prompts' lengths int32 [B].
    """
    embeds, levels = packed.embed(model, prompts, mesh)
    there = jnp.asarray(prompts.segments) > 0
    positions = jnp.asarray(prompts.positions)
    lengths = jnp.sum(there, axis=1, dtype=jnp.int32)
    following = 1 + jnp.max(jnp.where(there[:, None], positions, -1), axis=(1, 2))
    prefix = Prefix(embeds, positions, levels, there, lengths - 1, following)
    return prefix, lengths


def completion_hidden(
    model: VLM,
    prompts: PackedRows,
    tokens: jax.Array,
    lengths: jax.Array,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Runs each prompt once and its completions behind it.

    Args:
      model, prompts, mesh: as for `prompt_prefix`.
      tokens: int32 [B, G, S]; S at least 2.
      lengths: int32 [B, G].

    Returns:
      [B, G, S, D]: place t predicts token t; of no meaning from a completion's length on.
    """
    batch, group, length = tokens.shape
    prefix, places = prompt_prefix(model, prompts, mesh)
    # The last token is not fed back.
    fed = tokens[:, :, :-1].reshape(batch, -1)
    words = model.embed_tokens(fed, model.config.dtype)
    steps = jnp.tile(jnp.arange(length - 1), group)
    steps = prefix.next_position[:, None] + steps
    steps = jnp.broadcast_to(steps[:, None], (batch, 3, steps.shape[1]))
    layout = SharedPrompt(
        prefix.embeds.shape[1], group, places, jnp.maximum(lengths - 1, 0)
    )
    hidden, _ = model.language_model(
        packed.by_row(jnp.concatenate([prefix.embeds, words], axis=1), mesh),
        jnp.concatenate([prefix.positions, steps], axis=2),
        None,
        prefix.deepstack,
        shared=layout,
    )
    hidden = packed.by_row(hidden, mesh)
    last = jnp.take_along_axis(hidden, prefix.last[:, None, None], axis=1)
    first = jnp.broadcast_to(last[:, None], (batch, group, *last.shape[1:]))
    rest = hidden[:, layout.places :].reshape(batch, group, length - 1, -1)
    return jnp.concatenate([first, rest], axis=2)


def completion_logprobs(
    model: VLM,
    prompts: PackedRows,
    tokens: jax.Array,
    lengths: jax.Array,
    head: Head,
) -> jax.Array:
    """Log-probabilities at the head's temperature: float32 [B, G, S], nats."""
    hidden = completion_hidden(model, prompts, tokens, lengths, head.mesh)
    batch, group, length, _ = hidden.shape
    flat = hidden.reshape(batch, group * length, -1)
    logprobs = packed.read_logprobs(model, flat, tokens.reshape(batch, -1), head)
    return logprobs.reshape(tokens.shape)


def make_sampler(
    functions: Functional,
    config: GrpoConfig,
    length: int,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
    params: Any,
    *,
    method: Method | None = None,
    group: int | None = None,
) -> Callable[[Params, PackedRows, jax.Array], Completions]:
    """Compiles what writes G completions to each prompt, when it is first called.

    Args:
      functions: of the model.
      config: group, temperature and top-p.
      length: S, the most tokens.
      stop_ids: tokens after which a completion ends.
      mesh: of the devices; prompts come split by row over data and fsdp. Text is written
        on `mesh.writing_mesh`.
      params: shardings of the parameters.
      method: how tokens are drawn; None for `config`'s temperature and top-p.
      group: G; None for `config`'s.

    Returns:
      (params, prompts, key) -> Completions, whose rewards are 0.

    Raises:
      UserError: the model or length does not suit.
    """
    packed.check_model(functions.config)
    _check_length(length)
    method = method or Method(temperature=config.temperature, top_p=config.top_p)
    group = group or config.group
    writing = meshes.writing_mesh(mesh, functions.config.text.num_kv_heads)
    laid = meshes.shardings(functions.logical_axes(), functions.shapes(), writing)

    def sample(params: Params, prompts: PackedRows, key: jax.Array) -> Completions:
        params = packed.lowered(params, functions.config.dtype, head=True)
        model = functions.module(jax.lax.with_sharding_constraint(params, laid))
        with jax.sharding.use_abstract_mesh(writing.abstract_mesh):
            prefix, _ = prompt_prefix(model, prompts, writing)
            written = unconstrained.write(
                model,
                prefix,
                key,
                length=length,
                stop_ids=stop_ids,
                method=method,
                group=group,
                noted_temperature=config.temperature,
            )
        shape = (-1, group)
        tokens = written.tokens.reshape(*shape, length)
        lengths = written.lengths.reshape(shape)
        last = jnp.take_along_axis(tokens, lengths[..., None] - 1, axis=2)[..., 0]
        return Completions(
            tokens,
            lengths,
            jnp.isin(last, jnp.asarray(stop_ids, jnp.int32)),
            written.logprobs.reshape(*shape, length),
            jnp.zeros(lengths.shape),
        )

    return jax.jit(
        sample,
        in_shardings=(params, meshes.batch_sharding(mesh), meshes.replicated(mesh)),
        out_shardings=meshes.batch_sharding(mesh),
    )


def make_update(
    functions: Functional,
    optimizer: optax.GradientTransformation,
    config: GrpoConfig,
    mesh: Mesh,
    shardings: TrainState,
    *,
    tile: int = 2048,
    reference: bool = False,
    frozen: Any = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles the update when it is first called; it consumes the state it is given.

    The model that wrote is the one that learns, so the first ratio is 1 by the update's
    own graph; what the sampler noted only measures and corrects the mismatch.

    Args:
      functions: of the model.
      optimizer: of training/optimizer.py; in float32 if parameters are bfloat16.
      config: objective.
      mesh: of the devices; batches are split by row over data and fsdp.
      shardings: of `state.state_shardings`.
      tile: words of the vocabulary whose logits are held at a time.
      reference: whether the parameters from which `config.kl` is measured come as a last
        argument: those of the first state.
      frozen: shardings of the parameters that are not trained, see `packed.make_step`;
        they come as the argument before.

    Returns:
      (state, prompts, completions) -> (state, metrics): `loss`, `reward`, `length` in
      tokens, shares `truncated`, `truncated_tokens` and `equal_groups`, and those of
      `grpo.objective`, `mismatch.measure` and `state.apply_gradients`.

    Raises:
      UserError: the model does not suit, or `config.kl` and `reference` do not agree.
    """
    packed.check_model(functions.config)
    _check_reference(config, reference)
    head = Head(temperature=config.temperature, tile=tile, mesh=mesh)

    def logprobs_of(
        trained: Params, prompts: PackedRows, out: Completions, rest: Params
    ) -> jax.Array:
        params = join(trained, rest)
        model = functions.module(packed.lowered(params, functions.config.dtype))
        found = completion_logprobs(model, prompts, out.tokens, out.lengths, head)
        return found.reshape(-1, found.shape[-1])

    def update(
        state: TrainState, prompts: PackedRows, out: Completions, *others: Params
    ) -> tuple[TrainState, Metrics]:
        rest = {} if frozen is None else others[0]
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            away = [
                jax.lax.stop_gradient(logprobs_of(first, prompts, out, rest))
                for first in others[frozen is not None :]
            ]

            def loss_of(trained: Params) -> tuple[jax.Array, Metrics]:
                logprobs = logprobs_of(trained, prompts, out, rest)
                return _objective(logprobs, out, config, *away)

            (loss, measures), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params
            )
        state, measured = apply_gradients(state, loss, grads, optimizer)
        return state, {"loss": loss, **measures, **measured}

    rows, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    others = [] if frozen is None else [frozen]
    others += [shardings.params] if reference else []
    return jax.jit(
        update,
        in_shardings=(shardings, rows, rows, *others),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def _objective(
    logprobs: jax.Array, out: Completions, config: GrpoConfig, *reference: jax.Array
) -> tuple[jax.Array, Metrics]:
    """GRPO's loss of log-probabilities [B * G, S], and what is worth knowing."""
    lengths, ended = out.lengths.reshape(-1, 1), out.ended.reshape(-1, 1)
    chosen = jnp.arange(logprobs.shape[1]) < lengths
    counted = chosen & ended if config.mask_truncated else chosen
    equal = grpo.equal_groups(out.rewards)
    kept = ~equal if config.drop_equal else jnp.ones_like(equal)
    old, sampled = jax.lax.stop_gradient(logprobs), out.sampled.reshape(logprobs.shape)
    loss, measures = grpo.objective(
        logprobs,
        old,
        grpo.group_advantages(out.rewards, config.scale, kept).reshape(-1),
        counted,
        config,
        reference=reference[0] if reference else None,
        trust=mismatch.trust(
            old, sampled, counted, config.correction, config.correction_cap
        ),
        kept=kept.repeat(out.rewards.shape[1]),
    )
    return loss, {
        "reward": out.rewards.mean(),
        "length": lengths.mean(),
        "truncated": 1 - ended.mean(),
        "truncated_tokens": jnp.sum(chosen & ~ended) / jnp.maximum(chosen.sum(), 1),
        "equal_groups": equal.mean(),
        **mismatch.measure(old, sampled, chosen),
        **measures,
    }


def _check_reference(config: GrpoConfig, reference: bool) -> None:
    if (config.kl > 0) != reference:
        raise UserError(
            "a divergence is from frozen parameters; got --kl "
            f"{config.kl} {'without' if config.kl else 'and'} a reference; give both "
            "or neither"
        )


def _check_length(length: int) -> None:
    if length < 2:
        raise UserError(
            f"a completion has room for 2 tokens or more; got {length}; raise the length"
        )
