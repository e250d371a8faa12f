"""Improve a released Qwen3-VL with rewards that can be verified (GRPO).

The model writes several answers to each progress query of data sets of `soler1 synth`; form
and number are paid for as in the paper. Each question's pictures are computed once for all
of its answers. Writes checkpoints, metrics.jsonl, and at the end OUT/model; the same
command continues after an interruption, on any number of devices and hosts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from soler1_jax.cli.tuning import MAY_CHANGE, TuningArgs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(TuningArgs):
    """What `soler1 rlvr-vlm` does."""

    data: tuple[Path, ...]
    """Data sets of `soler1 synth`."""
    exam: tuple[Path, ...] = ()
    """Held-out data sets, whose questions are answered greedily."""
    exam_batches: int = 4
    """Held-out sets of questions in an examination."""
    steps: int = 500
    """Steps, each on new samples; the paper has 5,000."""
    prompts: int = 8
    """Questions of a step; a multiple of data x fsdp."""
    group: int = 8
    """Answers to each."""
    length: int = 200
    """The most tokens of an answer."""
    temperature: float = 0.7
    """Of sampling."""
    top_p: float = 0.9
    """Share of probability that sampling keeps."""
    tau: float = 10.0
    """Error in percent at which the reward of the number falls to 1/e."""
    claims: float = 0.0
    """Reward of a thought whose claims are all true; only for thoughts in our words."""
    kl: float = 0.0
    """Weight of the divergence from the model it starts from."""
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """Mean over all tokens; over each answer's, then answers; or the sum."""
    scale: Literal["group", "batch", "none"] = "group"
    """Whose spread divides the advantages; Dr. GRPO is loss dr_grpo and scale none."""
    importance: Literal["token", "sequence"] = "token"
    """What has a ratio; GSPO is sequence and loss grpo, with clips near 3e-4."""
    clip_low: float = 0.2
    """How far a ratio may fall below 1 before its gradient stops."""
    clip_high: float = 0.28
    """How far it may rise above 1."""
    drop_equal: bool = False
    """Leave out questions whose answers all earned the same."""
    mask_truncated: bool = False
    """Leave out answers that were cut at their length."""
    learning_rate: float = 1e-6
    """Peak of the cosine; the paper's."""
    warmup_steps: int = 10
    """Steps in which it rises."""
    seed: int = 1
    """Of the order of questions, samples and factors."""


def run(args: Args) -> None:
    """Trains and writes the run folder."""
    from soler1_jax.common import compile_cache, distributed
    from soler1_jax.training import refining, starting, tuned

    distributed.start()
    compile_cache.enable()
    settings = _settings(args)
    mesh = starting.make_mesh(args.mesh)
    vlm = starting.load_qwen(args.model, mesh, args.dtype, args.remat, args.lora_rank)
    asking = starting.asking(vlm, args.views, args.from_zero)
    place = tuned.place(args, "rlvr-vlm", MAY_CHANGE, mesh)
    questions = starting.questions(vlm, asking, args.data)
    exam = starting.questions(vlm, asking, args.exam) if args.exam else None
    shape = starting.question_shape(args.prompts, questions, exam)
    settings = dataclasses.replace(settings, shape=shape)
    tokenizer, stop_ids = vlm.tokenizer, vlm.stop_ids
    grader = refining.Grader(
        lambda ids: tokenizer.decode(ids, skip_special=True),
        asking.wording,
        settings.rewards,
    )
    learner = starting.learner(vlm, args, settings.optimizer, mesh)
    state, seconds = refining.refine(
        settings, learner, questions, grader, stop_ids, place, exam
    )
    tuned.finish(args, learner, state, seconds, place)


def _settings(args: Args) -> Any:
    from soler1_jax.data.row_room import RowShape
    from soler1_jax.training import grpo, refining, rewards

    return refining.Settings(
        steps=args.steps,
        shape=RowShape(rows=args.prompts, length=1, pictures=1, patches=4),
        length=args.length,
        grpo=grpo.GrpoConfig(
            group=args.group,
            temperature=args.temperature,
            top_p=args.top_p,
            clip_low=args.clip_low,
            clip_high=args.clip_high,
            kl=args.kl,
            loss=args.loss,
            scale=args.scale,
            importance=args.importance,
            drop_equal=args.drop_equal,
            mask_truncated=args.mask_truncated,
        ),
        rewards=rewards.RewardConfig(tau=args.tau, claims=args.claims),
        optimizer=dataclasses.replace(
            refining.OPTIMIZER,
            learning_rate=args.learning_rate,
            warmup_steps=args.warmup_steps,
        ),
        loop=args.intervals(),
        exam_batches=args.exam_batches,
        seed=args.seed,
    )
