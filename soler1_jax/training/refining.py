"""GRPO of a released model on progress queries, as a run.

The model writes G completions to each question; what they say is read on the host and paid
for by form and number, as in the paper (section 6), and by the truth of their claims if
that is wanted; then the model learns from what earned more than its group's mean.

Letters: B questions, G completions of each, K kinds of claim.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from soler1_jax.common.errors import require_positive
from soler1_jax.common.rewarder import MAX_PROGRESS
from soler1_jax.data import text
from soler1_jax.data.batches import claim_indices, claims_of
from soler1_jax.data.order import Order
from soler1_jax.data.packing import PackedRows
from soler1_jax.data.row_room import RowShape, check_all_fit
from soler1_jax.sampling.methods import GREEDY
from soler1_jax.tokenizers.wording import Wording
from soler1_jax.training import feed, grouped, loop, rewards
from soler1_jax.training.adapters import join
from soler1_jax.training.examples import Examples
from soler1_jax.training.grouped import Completions
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.loop import LoopConfig
from soler1_jax.training.optimizer import OptimizerConfig
from soler1_jax.training.rewards import Graded, RewardConfig
from soler1_jax.training.state import TrainState, step_key
from soler1_jax.training.supervise import Place
from soler1_jax.training.tuning import Learner, reader

# The paper's; the divergence's weight and tau are not stated there.
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-6, warmup_steps=10, b2=0.95, weight_decay=0.0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a run.

    Attributes:
      steps: sets of questions.
      shape: of the questions, one a row.
      length: the most tokens of a completion.
      grpo: sampling and objective.
      rewards: what is paid for.
      optimizer: learning rate and the like.
      loop: intervals.
      exam_batches: held-out sets of questions in an examination.
      seed: of the order and of samples.
    """

    steps: int
    shape: RowShape
    length: int = 200
    grpo: GrpoConfig = GrpoConfig()
    rewards: RewardConfig = RewardConfig(claims=0.0)
    optimizer: OptimizerConfig = OPTIMIZER
    loop: LoopConfig = LoopConfig(log_every=1)
    exam_batches: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        require_positive("--steps", self.steps)
        require_positive("--exam-batches", self.exam_batches)


class Questions(NamedTuple):
    """A batch of progress queries and their truth."""

    rows: PackedRows  # one prompt a row
    progress: ArrayLike  # float32 [B], percent
    claims: ArrayLike  # int32 [B, K], of data.batches.claim_indices


def canonical(reply: str, wording: Wording) -> str:
    """A reply in the form of `data/text.py`, if it has the checkpoint's own.

    Args:
      reply: as the model wrote it.
      wording: with the tags of thought and answer.

    Returns:
      Thought and number; thought and answer where that is no number from -100 to 100; or
      the text as it is, which then has no form that is paid for.
    """
    thought_tags = wording.thought_tags or ("", "")
    tags = [re.escape(tag) for tag in (*thought_tags, *wording.answer_tags)]
    form = r"\s*{}(.*?){}\s*{}(.*?){}\s*".format(*tags)
    match = re.fullmatch(form, reply, re.DOTALL)
    if match is None:
        # Our own tags are not the checkpoint's, and must not be read as if they were.
        return reply.replace(text.ANSWER, "")
    thought, answer = match.groups()
    number = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*%?\s*", answer)
    if number is None or abs(float(number[1])) > MAX_PROGRESS:
        return text.completion(thought, "?")
    return text.progress_completion(thought, round(float(number[1])))


class Grader:
    """Pays for completions; each process for those that its devices hold.

    Args:
      decode: token ids -> text.
      wording: see `canonical`.
      config: what is paid for.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        wording: Wording,
        config: RewardConfig,
    ) -> None:
        self._decode, self.wording, self._config = decode, wording, config

    def texts(self, out: Completions) -> list[str]:
        """What this process's completions say, those of a question together."""
        tokens, lengths = (feed.local(x) for x in (out.tokens, out.lengths))
        pairs = zip(
            tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1), strict=True
        )
        return [self._decode(row[:count].tolist()) for row, count in pairs]

    def __call__(self, batch: Questions, out: Completions) -> Graded:
        """Grades this process's completions; each float32 [b * G]."""
        group = out.lengths.shape[1]
        replies = [canonical(reply, self.wording) for reply in self.texts(out)]
        progress = feed.local(batch.progress).repeat(group)
        truth = [claims_of(row) for row in feed.local(batch.claims)]
        facts = [true for true in truth for _ in range(group)]
        return rewards.grade(replies, progress, facts, self._config)


def question_reader(
    examples: Examples, settings: Settings, learner: Learner, mesh: Mesh
) -> Callable[[int], Questions]:
    """Step -> the questions of its batch that this process's devices hold.

    Args:
      examples: prompts of recorded progress queries, without replies.
      settings: shape and seed.
      learner: the model.
      mesh: of the devices.

    Raises:
      UserError: a question does not fit a row.
    """
    shape = settings.shape
    check_all_fit(examples.sizes, shape, "question")
    order = Order(examples.sources, {"progress": 1.0}, settings.seed)
    plan = _OneARow(order, shape.rows)
    rows = reader(examples, plan, shape, learner.config, mesh)
    mine = feed.local_rows(shape.rows, mesh)

    def read(step: int) -> Questions:
        asked = []
        for (index,) in plan.rows(step)[mine.start : mine.stop]:
            part, inside = examples.find(index)
            asked.append(part.query(inside)[1])
        progress = np.array([query.progress for query in asked], np.float32)
        claims = np.stack([claim_indices(query) for query in asked])
        return Questions(rows(step), progress, claims)

    return read


class _OneARow:
    """As `order.Plan`, but every row holds one example."""

    def __init__(self, order: Order, count: int) -> None:
        self._order, self._count = order, count

    def rows(self, step: int) -> list[list[int]]:
        first = step * self._count
        return [[self._order[first + row]] for row in range(self._count)]


def refine(
    settings: Settings,
    learner: Learner,
    examples: Examples,
    grader: Grader,
    stop_ids: tuple[int, ...],
    place: Place,
    exam: Examples | None = None,
) -> tuple[TrainState, float]:
    """Trains; continues if the store holds a checkpoint.

    Args:
      settings: what decides the run.
      learner: the model.
      examples: questions to learn from.
      grader: pays for what is written.
      stop_ids: tokens that end a completion.
      place: where the run happens.
      exam: held-out questions, answered greedily.

    Returns:
      The last state and the seconds spent on it.

    Raises:
      UserError: a batch does not fit the mesh or the data, or was not finite.
    """
    mesh, how = place.mesh, settings.grpo
    feed.check_divides(settings.shape.rows, mesh, "--prompts")
    placed = join(learner.shardings.params, learner.frozen_shardings)
    sample = grouped.make_sampler(
        learner.functions, how, settings.length, stop_ids, mesh, placed
    )
    state, learner.state = learner.state, None
    # A state is used up by its first step.
    first = [jax.tree.map(lambda x: x.copy(), state.params)] if how.kl else []
    update = grouped.make_update(
        learner.functions,
        learner.optimizer,
        how,
        mesh,
        learner.shardings,
        reference=bool(how.kl),
        frozen=learner.frozen_shardings,
    )

    def step(state: TrainState, batch: Questions) -> tuple[TrainState, dict[str, Any]]:
        params = join(state.params, learner.frozen)
        out = sample(params, batch.rows, step_key(state))
        graded = grader(batch, out)
        paid = graded.total.reshape(-1, how.group)
        rewarded = out._replace(rewards=feed.place(paid, mesh))
        state, metrics = update(state, batch.rows, rewarded, learner.frozen, *first)
        return state, metrics | _means(graded)

    read = question_reader(examples, settings, learner, mesh)
    watch = None
    if exam is not None:
        watch = Exam(settings, learner, exam, grader, stop_ids, mesh)
    stage = loop.Stage("rlvr", settings.steps, step, read)
    return loop.train(
        [stage], state, place.run, place.store, mesh, settings.loop, watch
    )


def _means(graded: Graded) -> dict[str, float]:
    """Mean rewards over all processes."""
    parts = np.array([graded.total, graded.form, graded.accuracy, graded.claims])
    means = feed.mean_over_processes(parts.mean(axis=1))
    names = ("reward", "reward_form", "reward_accuracy", "reward_claims")
    return dict(zip(names, means.tolist(), strict=True))


class Exam:
    """Watches a run: greedy answers to held-out questions, the same ones every time."""

    def __init__(
        self,
        settings: Settings,
        learner: Learner,
        examples: Examples,
        grader: Grader,
        stop_ids: tuple[int, ...],
        mesh: Mesh,
    ) -> None:
        self._read = question_reader(examples, settings, learner, mesh)
        self._grader, self._learner, self._mesh = grader, learner, mesh
        self._count = settings.exam_batches
        self._sample = grouped.make_sampler(
            learner.functions,
            settings.grpo,
            settings.length,
            stop_ids,
            mesh,
            join(learner.shardings.params, learner.frozen_shardings),
            method=GREEDY,
            group=1,
        )

    def __call__(self, stage: str, step: int, state: TrainState) -> dict[str, float]:
        """Mean error in percent of the numbers stated, and the share that stated one."""
        params = join(state.params, self._learner.frozen)
        errors, parsed = [], []
        for batch in feed.batches(self._read, 0, self._count, self._mesh):
            out = self._sample(params, batch.rows, jax.random.key(0))
            truth = feed.local(batch.progress)
            for reply, true in zip(self._grader.texts(out), truth, strict=True):
                said = text.parse_progress(canonical(reply, self._grader.wording))
                parsed.append(said is not None)
                # Who states nothing repeats the start's 0, as in use.
                errors.append(abs((said or 0) - true))
        mae, share = feed.mean_over_processes(
            np.array([np.mean(errors), np.mean(parsed)])
        )
        return {"exam_mae": float(mae), "exam_parsed": float(share)}
