"""Fine-tune a released Qwen3-VL to reason about progress, on packed rows.

Learns from data sets of `soler1 synth`, put into the checkpoint's own words, and from
conversations in JSON lines. Writes checkpoints, metrics.jsonl, and at the end OUT/model,
which `soler1 reward --rewarder` and `soler1 convert --to hf` take. The same command
continues after an interruption, on any number of devices and hosts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from soler1_jax.cli.tuning import MAY_CHANGE, TuningArgs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(TuningArgs):
    """What `soler1 sft-vlm` does."""

    data: tuple[Path, ...] = ()
    """Data sets of `soler1 synth`."""
    chats: tuple[Path, ...] = ()
    """Conversations, JSON lines of messages, images and source."""
    exam: tuple[Path, ...] = ()
    """Held-out data sets of `soler1 synth`, whose loss is logged."""
    exam_batches: int = 8
    """Held-out batches in an examination."""
    steps: int = 1000
    """Steps, a batch each."""
    rows: int = 8
    """Rows of a batch; a multiple of data x fsdp x microbatches."""
    tokens: int = 4096
    """Tokens of a row, those of pictures included; several records share one."""
    microbatches: int = 1
    """Parts of a batch whose gradients are summed one after another."""
    mixture: str = "paper"
    """Sources: paper, progress, or weights such as progress=8,spatial=2,chat=1."""
    learning_rate: float = 1e-5
    """Peak of the cosine; the paper's. Factors want about ten times as much."""
    warmup_steps: int = 100
    """Steps in which it rises."""
    weight_decay: float = 0.01
    """Of matrices."""
    seed: int = 0
    """Of the order of examples and of factors."""


def run(args: Args) -> None:
    """Trains and writes the run folder."""
    from soler1_jax.common import compile_cache, distributed
    from soler1_jax.training import starting, tuned, tuning

    distributed.start()
    compile_cache.enable()
    settings = _settings(args)
    mesh = starting.make_mesh(args.mesh)
    vlm = starting.load_qwen(args.model, mesh, args.dtype, args.remat, args.lora_rank)
    asking = starting.asking(vlm, args.views, args.from_zero)
    place = tuned.place(args, "sft-vlm", MAY_CHANGE, mesh)
    examples = starting.examples(vlm, asking, args.data, args.chats)
    exam = starting.examples(vlm, asking, args.exam) if args.exam else None
    shape = starting.row_shape(vlm.config, args.rows, args.tokens, examples)
    settings = dataclasses.replace(settings, shape=shape)
    learner = starting.learner(vlm, args, settings.optimizer, mesh)
    state, seconds = tuning.tune(settings, learner, examples, place, exam)
    tuned.finish(args, learner, state, seconds, place)


def _settings(args: Args) -> Any:
    from soler1_jax.data.row_room import RowShape
    from soler1_jax.training import curriculum, packed, tuning

    return tuning.Settings(
        steps=args.steps,
        shape=RowShape(rows=args.rows, length=args.tokens, pictures=1, patches=4),
        mixture=curriculum.parse_mixture(args.mixture, tuning.MIXTURES, ()),
        packed=packed.PackedConfig(microbatches=args.microbatches),
        optimizer=dataclasses.replace(
            tuning.OPTIMIZER,
            learning_rate=args.learning_rate,
            warmup_steps=args.warmup_steps,
            weight_decay=args.weight_decay,
        ),
        loop=args.intervals(),
        exam_batches=args.exam_batches,
        seed=args.seed,
    )
