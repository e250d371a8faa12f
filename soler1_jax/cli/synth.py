"""Make episodes with thoughts, questions and their truth, as array_record shards.

Every task family and every level, from near-expert to random, gets its share. The
same seed gives the same bytes; a killed command continues where it was.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 synth` makes."""

    out: Path
    """Folder of the data set; TFDS opens it with builder_from_directory."""
    episodes: int = 1000
    """How many runs; most of those for training make two records, see
    `soler1_jax.synthesis.episodes.retell`."""
    seed: int = 0
    """Decides scenes, tasks, mistakes and wordings."""
    split: Literal["train", "unseen"] = "train"
    """Tasks to show: those trained on, or those kept for evaluation."""
    mix: str = "3,2,3,3,3,3,1"
    """Weights of the levels: expert, noisy, one mistake, two mistakes, failing,
    going wrong, random."""
    wrist: bool = True
    """Store the wrist camera's view too."""
    policies: tuple[Path, ...] = ()
    """Folders of policies that `soler1 rl` kept; they act instead of experts. Policies
    learned from a rewarder show what it gets wrong."""
    worlds: int = 64
    """Episodes simulated at once, and stored in one shard."""


def run(args: Args) -> None:
    """Writes the data set; prints where it is and how fast it went."""
    from soler1_jax.common import compile_cache
    from soler1_jax.rl.policies import find
    from soler1_jax.synthesis import write

    config = write.SynthConfig(
        episodes=args.episodes,
        seed=args.seed,
        split=args.split,
        mix=write.parse_mix(args.mix),
        wrist=args.wrist,
        policies=tuple(map(str, find(args.policies))),
        worlds=args.worlds,
    )
    compile_cache.enable()
    result = write.synthesise(args.out, config)
    print(
        f"{args.out}: {result['episodes']} episodes, "
        f"{result['queries']} queries, {result['episodes_per_second']:.1f} episodes/s"
    )
