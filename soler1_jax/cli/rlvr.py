"""Improve a model with rewards that can be verified (GRPO).

The model writes several completions of each progress query; form, number and the truth
of what its thought claims are paid for. Writes metrics.jsonl, checkpoints and the best
model in OUT/model; the same command continues after an interruption.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 rlvr` does."""

    model: Path
    """Model folder to start from, e.g. that of `soler1 sft`."""
    data: Path
    """Training data set, made by `soler1 synth`."""
    out: Path
    """Run folder."""
    exam: tuple[Path, ...] = ()
    """Held-out data sets; the model is examined on them and the best one kept."""
    exam_episodes: int = 64
    """Episodes of each of them in an examination."""
    steps: int = 60
    """Steps, each on new samples."""
    learning_rate: float = 1e-4
    """Peak of the cosine; the paper's 1e-6 is for eight billion parameters."""
    episodes: int = 4
    """Episodes in a batch."""
    queries: int = 4
    """Queries of each of them."""
    group: int = 8
    """Completions of each query."""
    temperature: float = 0.7
    """Of sampling."""
    top_p: float = 0.9
    """Share of probability that sampling keeps."""
    tau: float = 10.0
    """Error in percent at which the reward of the number falls to 1/e."""
    claims: float = 0.5
    """Reward of a thought whose claims are all there and all true."""
    kl: float = 0.0
    """Weight of the divergence from the model it starts from."""
    unbiased_kl: bool = False
    """Weigh that divergence by the ratio, so that its gradient is unbiased."""
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """Mean over all tokens; over each completion's, then completions; or the sum."""
    scale: Literal["group", "batch", "none"] = "group"
    """Whose spread divides the advantages; Dr. GRPO is loss dr_grpo and scale none."""
    importance: Literal["token", "sequence"] = "token"
    """What has a ratio; GSPO is sequence and loss grpo, with clips near 3e-4."""
    clip_low: float = 0.2
    """How far a ratio may fall below 1 before its gradient stops."""
    clip_high: float = 0.28
    """How far it may rise above 1."""
    drop_equal: bool = False
    """Leave out groups whose completions all earned the same."""
    mask_truncated: bool = False
    """Leave out completions whose thought was cut at its budget of tokens."""
    correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "none"
    """Of the mismatch between sampler and model."""
    correction_cap: float = 3.0
    """Largest ratio that the correction trusts."""
    updates: int = 1
    """Gradient steps on each set of samples."""
    supervised: float = 0.1
    """Weight of the supervised loss beside the rewards; the paper has none."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations; by default float32 on a CPU and bfloat16 elsewhere."""
    seed: int = 1
    """Of batches and samples."""
    mesh: str | None = None
    """Devices along data,fsdp,tensor, e.g. 4,1,1; by default all on data."""
    log_every: int = 1
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 20
    """Steps between two checkpoints."""
    watch_every: int = 20
    """Steps between two examinations."""


_MAY_CHANGE = ("log_every", "save_every", "watch_every", "exam_episodes", "exam")


def run(args: Args) -> None:
    """Trains and writes the run folder."""
    from soler1_jax.checkpoints.manager import CheckpointStore
    from soler1_jax.common import compile_cache
    from soler1_jax.common.errors import require_positive
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.model.functional import Functional
    from soler1_jax.training import improve, materials, supervise
    from soler1_jax.training.keeper import Keeper

    require_positive("--steps", args.steps)
    settings = _settings(args)
    compile_cache.enable()
    mesh = materials.make_mesh(args.mesh)
    start = materials.load_start(args.model)
    episodes = materials.open_episodes((args.data,), start)
    exam = materials.exam_episodes(args.exam, args.exam_episodes)
    folder = Run(args.out, "rlvr", args, may_change=_MAY_CHANGE)
    functions = Functional(
        materials.model_config(start, start.tokenizer, episodes, args.dtype)
    )
    learner = supervise.Learner(functions, start.tokenizer, start.params)
    settings = improve.fit(settings, learner, episodes)
    metadata = {"command": command_line(), "from": start.metadata}
    keeper = Keeper(args.out, functions, start.tokenizer, metadata)
    state, seconds = improve.improve(
        settings,
        learner,
        episodes,
        supervise.Place(folder, CheckpointStore(args.out / "checkpoints"), mesh),
        supervise.Examiner(keeper, exam, settings.batch),
    )
    folder.finish(keeper.finish(state.params, int(state.step), seconds))
    print(f"{args.out}: {int(state.step)} steps in {seconds:.0f} s, see model/")


def _settings(args: Args) -> Any:
    from soler1_jax.data.batches import BatchConfig
    from soler1_jax.training import grpo, improve, loop, optimizer, rewards, rlvr

    return improve.Settings(
        steps=args.steps,
        batch=BatchConfig(episodes=args.episodes, queries=args.queries),
        rlvr=rlvr.RlvrConfig(
            grpo=grpo.GrpoConfig(
                group=args.group,
                temperature=args.temperature,
                top_p=args.top_p,
                clip_low=args.clip_low,
                clip_high=args.clip_high,
                kl=args.kl,
                unbiased_kl=args.unbiased_kl,
                loss=args.loss,
                scale=args.scale,
                importance=args.importance,
                drop_equal=args.drop_equal,
                mask_truncated=args.mask_truncated,
                correction=args.correction,
                correction_cap=args.correction_cap,
            ),
            rewards=rewards.RewardConfig(tau=args.tau, claims=args.claims),
            updates=args.updates,
            supervised=args.supervised,
        ),
        optimizer=optimizer.OptimizerConfig(
            learning_rate=args.learning_rate, warmup_steps=5, weight_decay=0.0
        ),
        loop=loop.LoopConfig(
            log_every=args.log_every,
            save_every=args.save_every,
            watch_every=args.watch_every,
        ),
        seed=args.seed,
    )
