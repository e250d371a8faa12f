"""Teach a model: first to see, then to compare frames, then to state progress.

Writes checkpoints, metrics.jsonl, and in OUT/model the best model so far. The same
command continues after an interruption and ends with the same weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 sft` does."""

    data: Path
    """Training data set, made by `soler1 synth`."""
    out: Path
    """Run folder."""
    more_data: tuple[Path, ...] = ()
    """Further data sets, joined to the first."""
    families: tuple[str, ...] = ()
    """Learn from records of these task families only."""
    levels: tuple[int, ...] = ()
    """Learn from these kinds of run only: 0 experts, 1 to 6 mistakes up to random,
    7 runs of another task, 8 learned policies."""
    records: int | None = None
    """Learn from so many records at most."""
    thoughts: bool = True
    """Teach thoughts; otherwise the answer alone."""
    exam: tuple[Path, ...] = ()
    """Held-out data sets; the model is examined on them and the best one kept."""
    exam_episodes: int = 64
    """Episodes of each of them in an examination."""
    model: str = "nano"
    """Preset, or a model folder to start from."""
    tokenizer: Path | None = None
    """SentencePiece model; trained on the data set's texts if not given."""
    vocab_size: int = 512
    """Largest vocabulary of a tokenizer trained here."""
    perception_steps: int = 3000
    """Steps of learning to see."""
    compare_steps: int = 400
    """Steps of questions about single frames and pairs of frames."""
    progress_steps: int = 4000
    """Steps of progress queries, mixed with questions."""
    mixture: str = "nano"
    """Sources of the last stage: nano, paper, progress, or progress=8,spatial=2."""
    previous: float = 0.0
    """How often a prompt has the true previous progress; models learn to copy it."""
    perception_weight: float = 0.5
    """Weight of the losses of seeing while the model is asked."""
    episodes: int = 4
    """Episodes in a batch of queries."""
    queries: int = 8
    """Queries of each of them."""
    perception_episodes: int = 8
    """Episodes in a batch of the first stage."""
    perception_frames: int = 2
    """Frames of each of them."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations; float32 on a CPU and bfloat16 elsewhere if not given."""
    learning_rate: float = 1.2e-3
    """Peak of the cosine."""
    seed: int = 0
    """Of weights, batches and choices."""
    mesh: str | None = None
    """Devices along data,fsdp,tensor, e.g. 4,1,1; by default all on data."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between two checkpoints."""
    watch_every: int = 500
    """Steps between two examinations."""


def run(args: Args) -> None:
    """Trains and writes the run folder."""
    from soler1_jax.checkpoints.manager import CheckpointStore
    from soler1_jax.common import compile_cache
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.model.functional import Functional
    from soler1_jax.training import curriculum, materials, supervise
    from soler1_jax.training.keeper import Keeper

    compile_cache.enable()
    settings = _settings(args)
    mesh = materials.make_mesh(args.mesh)
    start = materials.starting_point(args.model)
    part = materials.Part(
        families=args.families,
        levels=args.levels,
        records=args.records,
        thoughts=args.thoughts,
    )
    episodes = materials.open_episodes((args.data, *args.more_data), start, part)
    exam = materials.exam_episodes(
        args.exam, args.exam_episodes, thoughts=args.thoughts
    )
    folder = Run(args.out, "sft", args, may_change=_MAY_CHANGE)
    tokenizer = start.tokenizer or materials.find_tokenizer(
        args.tokenizer, args.data, args.out, args.vocab_size
    )
    functions = Functional(
        materials.model_config(start, tokenizer, episodes, args.dtype)
    )
    plan = dataclasses.replace(
        settings.curriculum,
        **curriculum.patches(functions.config),
        **curriculum.lengths(episodes, supervise.Words(tokenizer), args.previous),
    )
    metadata = {"command": command_line(), "args": dataclasses.asdict(args)}
    metadata["args"] = {k: str(v) for k, v in metadata["args"].items()}
    keeper = Keeper(args.out, functions, tokenizer, metadata)
    state, seconds = supervise.supervise(
        dataclasses.replace(settings, curriculum=plan),
        supervise.Learner(functions, tokenizer, start.params),
        episodes,
        supervise.Place(folder, CheckpointStore(args.out / "checkpoints"), mesh),
        supervise.Examiner(keeper, exam, plan.batch("progress")),
    )
    folder.finish(keeper.finish(state.params, int(state.step), seconds))
    print(f"{args.out}: {int(state.step)} steps in {seconds:.0f} s, see model/")


_MAY_CHANGE = ("log_every", "save_every", "watch_every", "exam_episodes", "exam")


def _settings(args: Args) -> Any:
    from soler1_jax.training import curriculum, loop, optimizer, sft, supervise

    return supervise.Settings(
        curriculum=curriculum.CurriculumConfig(
            perception_steps=args.perception_steps,
            compare_steps=args.compare_steps,
            progress_steps=args.progress_steps,
            perception_episodes=args.perception_episodes,
            episodes=args.episodes,
            queries=args.queries,
            mixture=curriculum.parse_mixture(args.mixture),
            previous=args.previous,
            seed=args.seed,
        ),
        losses=sft.SftConfig(
            perception_frames=args.perception_frames,
            perception_weight=args.perception_weight,
        ),
        optimizer=optimizer.OptimizerConfig(learning_rate=args.learning_rate),
        loop=loop.LoopConfig(
            log_every=args.log_every,
            save_every=args.save_every,
            watch_every=args.watch_every,
        ),
        seed=args.seed,
    )
