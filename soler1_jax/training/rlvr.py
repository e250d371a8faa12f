"""Steps of reinforcement learning from verifiable rewards.

One step: the model writes G completions for each question (jitted), the host reads
and grades them, the model learns from what set them apart (jitted). The frames are
encoded once for all completions. B questions, G completions of each, N = B*G, S tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from soler1_jax.common.errors import require_non_negative, require_positive
from soler1_jax.data.batches import claims_of
from soler1_jax.sampling.grammar import Grammar
from soler1_jax.sampling.loop import generate
from soler1_jax.sampling.methods import Method
from soler1_jax.tokenizers import sentencepiece as ids
from soler1_jax.training import grpo, mismatch, rewards
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.rewards import RewardConfig
from soler1_jax.training.sft import Batch, Bind, LossFn, Metrics, ask, look
from soler1_jax.training.state import TrainState, apply_gradients, step_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class RlvrConfig:
    """What one step does.

    Attributes:
      grpo: sampling and objective.
      rewards: what is paid for.
      updates: gradient steps on each set of samples. From the second on the model
        that learns is no longer the one that wrote, and clipping matters.
      supervised: weight of the supervised loss on the same batch, which keeps heat
        maps and bins in place while the words change; 0 as in the paper.
    """

    grpo: GrpoConfig = GrpoConfig()
    rewards: RewardConfig = RewardConfig()
    updates: int = 1
    supervised: float = 0.0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("--updates", self.updates)
        require_non_negative("--supervised", self.supervised)


def _prefix(model: Any, batch: Batch, group: int = 1) -> Any:
    """The prefix of every question, G times in a row."""
    prefix, _ = ask(model, look(model, batch), batch)
    return jax.tree.map(lambda x: x.repeat(group, axis=0), prefix)


class Sampling(NamedTuple):
    """How completions are drawn."""

    grammar: Grammar
    method: Method


def _logprobs(
    model: Any, prefix: Any, tokens: jax.Array, sampling: Sampling
) -> jax.Array:
    """Log-probabilities of tokens under what the grammar allows: float32 [N,S].

    Forced tokens have 0 whatever the model says, hence no gradient.
    """
    logits = model.logits(prefix, tokens, tokens != 0).logits
    masked = sampling.grammar.mask(logits, sampling.grammar.states(tokens))
    return grpo.token_logprobs(masked, tokens, sampling.method.temperature)


def sampling_of(config: GrpoConfig, grammar: Grammar) -> Sampling:
    """Temperature and top-p of the settings."""
    method = Method(temperature=config.temperature, top_p=config.top_p)
    return Sampling(grammar, method)


def make_sampler(
    bind: Bind, sampling: Sampling, group: int
) -> Callable[[TrainState, Batch], tuple[jax.Array, jax.Array]]:
    """Returns a jitted (state, batch) -> completions.

    Its result is tokens int32 [N,S], zero after the end, and the log-probabilities
    float32 [N,S] that the sampler noted while it drew them: at its temperature, among
    what the grammar allows, top-p left out, so that the update computes the same
    function; 0 for tokens that the grammar forced.
    """

    def sample(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = bind(state.params)
        drawn = generate(
            model,
            _prefix(model, batch),
            step_key(state),
            group=group,
            noted_temperature=sampling.method.temperature,
            **sampling._asdict(),
        )
        return drawn.tokens, drawn.logprobs

    return jax.jit(sample)


class _Marks(NamedTuple):
    """What the objective needs to know of completions beside their probabilities."""

    chosen: jax.Array  # bool [N,S], by the model rather than by the grammar
    counted: jax.Array  # bool [N,S], what is chosen and not masked
    kept: jax.Array  # bool [N]
    advantages: jax.Array  # float32 [N]


def _mark(
    tokens: jax.Array, earned: jax.Array, config: GrpoConfig, grammar: Grammar
) -> tuple[_Marks, Metrics]:
    """Marks completions and measures what is left out.

    A thought is cut when the grammar had to end it because its budget of tokens was
    used up. "truncated" is the share of such completions, "truncated_tokens" that of
    their tokens, "equal_groups" that of groups in which all earned the same.
    """
    chosen = grammar.free(grammar.states(tokens)) & (tokens != ids.PAD)
    cut = ~jnp.any((tokens == ids.END_THINK) & chosen, axis=1)
    cut_tokens = jnp.sum(chosen & cut[:, None]) / jnp.maximum(chosen.sum(), 1)
    equal = grpo.equal_groups(earned)
    kept = ~equal if config.drop_equal else jnp.ones_like(equal)
    marks = _Marks(
        chosen,
        chosen & ~cut[:, None] if config.mask_truncated else chosen,
        kept.repeat(config.group),
        grpo.group_advantages(earned, config.scale, kept).reshape(-1),
    )
    return marks, {
        "truncated": cut.mean(),
        "truncated_tokens": cut_tokens,
        "equal_groups": equal.mean(),
    }


def make_update(
    bind: Bind,
    optimizer: optax.GradientTransformation,
    config: RlvrConfig,
    sampling: Sampling,
    supervised: LossFn,
    reference: Any = None,
    shardings: Any = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a jitted (state, batch, tokens, sampled, rewards) -> (state, metrics).

    The model that wrote the tokens is the state that comes in: its log-probabilities
    are those of the first of `config.updates` passes, by the same graph, so the first
    ratio is 1. `sampled`, of `make_sampler`, only measures and corrects the mismatch.

    Args:
      bind: parameters -> model.
      optimizer: see optimizer.py.
      config: objective.
      sampling: that of `make_sampler`.
      supervised: loss to add with weight `config.supervised`.
      reference: frozen parameters, if `config.grpo.kl` is above 0.
      shardings: of the state; None on one device.
    """
    how = config.grpo

    def update(
        state: TrainState, batch: Batch, tokens: Any, sampled: Any, earned: jax.Array
    ) -> tuple[TrainState, Metrics]:
        marks, left_out = _mark(tokens, earned, how, sampling.grammar)
        frozen = None
        if reference is not None:
            model = bind(reference)
            frozen = _logprobs(
                model, _prefix(model, batch, how.group), tokens, sampling
            )

        def loss_of(params: Any, old: jax.Array | None) -> tuple[jax.Array, Any]:
            model = bind(params)
            prefix = _prefix(model, batch, how.group)
            logprobs = _logprobs(model, prefix, tokens, sampling)
            old = jax.lax.stop_gradient(logprobs) if old is None else old
            loss, measures = grpo.objective(
                logprobs,
                old,
                marks.advantages,
                marks.counted,
                how,
                reference=frozen,
                trust=mismatch.trust(
                    old, sampled, marks.counted, how.correction, how.correction_cap
                ),
                kept=marks.kept,
            )
            measures |= mismatch.measure(old, sampled, marks.chosen)
            if config.supervised:
                extra, _ = supervised(model, batch, step_key(state))
                loss = loss + config.supervised * extra
                measures["supervised"] = extra
            return loss, (measures, old)

        before, old = state.step, None
        for _ in range(config.updates):
            (loss, (measures, old)), grads = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, old
            )
            state, measured = apply_gradients(state, loss, grads, optimizer)
        # one batch is one step, however many updates it gave
        state = state.replace(step=jnp.minimum(state.step, before + 1))
        spread = earned.std(axis=1).mean()
        told = {"loss": loss, "spread": spread, **left_out, **measures, **measured}
        return state, told

    outputs = None if shardings is None else (shardings, None)
    return jax.jit(update, donate_argnums=0, out_shardings=outputs)


def make_step(
    sample: Callable[[TrainState, Batch], tuple[jax.Array, jax.Array]],
    update: Callable[..., tuple[TrainState, Metrics]],
    decode: Callable[[Sequence[int]], str],
    config: RlvrConfig,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns (state, batch) -> (state, metrics) for training/loop.py.

    Args:
      sample: of `make_sampler`.
      update: of `make_update`.
      decode: tokens -> text as the model wrote it.
      config: what is paid for.
    """
    group = config.grpo.group

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        tokens, sampled = sample(state, batch)
        texts = [decode(row[row != 0].tolist()) for row in np.asarray(tokens)]
        progress = np.asarray(batch["progress"]).reshape(-1).repeat(group)
        truth = np.asarray(batch["claims"])
        truth = [claims_of(c) for c in truth.reshape(-1, truth.shape[-1])]
        facts = [true for true in truth for _ in range(group)]
        graded = rewards.grade(texts, progress, facts, config.rewards)
        earned = jnp.asarray(graded.total.reshape(-1, group))
        state, metrics = update(state, batch, tokens, sampled, earned)
        paid = {
            f"reward_{name}": getattr(graded, name).mean()
            for name in ("form", "accuracy", "claims", "total")
        }
        length = np.count_nonzero(np.asarray(tokens), axis=1).mean()
        return state, metrics | paid | {"length": length}

    return step
