"""Data sets of synthetic episodes: tasks and levels by share, shards, statistics.

Each shard has its own key, folded from the seed and the shard's index, so a run
that was killed writes the missing shards exactly as it would have.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from soler1_jax.common.errors import UserError, require_non_negative, require_positive
from soler1_jax.common.progress import Bar
from soler1_jax.common.run import Run, read_json
from soler1_jax.data import records, source
from soler1_jax.data.records import SPLITS, Episode
from soler1_jax.envs.tasks import TASKS, task_index
from soler1_jax.rl import policies
from soler1_jax.rl.policies import Policy
from soler1_jax.synthesis import episodes, scenes
from soler1_jax.synthesis.mistakes import LEVELS, POLICY
from soler1_jax.synthesis.rollout import Recorder

_LEVEL_NAMES = (*LEVELS, "another task's", "a policy's")
# Progress labels are counted in bins of this many percent.
_HISTOGRAM_PERCENT = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """What to make.

    Attributes:
      episodes: how many runs; most of those for training are told twice, the second
        time as if another task with the same noun had been set.
      seed: decides everything.
      split: "train" or "unseen".
      mix: weights of the levels 0 .. 6.
      wrist: whether to store the wrist view.
      policies: files of learned policies; if there are any, each run is one of theirs,
        of the task it was learned for.
      worlds: episodes simulated at once; one shard.
      stride: control steps between two frames.
      frames: T, frames an episode.
      size: side of the frames in pixels.
    """

    episodes: int
    seed: int
    split: str = "train"
    mix: tuple[float, ...] = (3, 2, 3, 3, 3, 3, 1)
    wrist: bool = True
    policies: tuple[str, ...] = ()
    worlds: int = 64
    stride: int = 5
    frames: int = records.FRAMES
    size: int = records.IMAGE_SIZE

    def __post_init__(self) -> None:
        """Raises UserError for sizes that make no data set."""
        require_positive("episodes", self.episodes)
        require_positive("worlds", self.worlds)
        require_positive("stride", self.stride)
        require_non_negative("seed", self.seed)
        if self.split not in SPLITS:
            raise UserError(
                f"the split must be one of {', '.join(SPLITS)}; got {self.split!r}; "
                "give --split train or --split unseen"
            )
        if len(self.mix) != len(LEVELS) or min(self.mix) < 0 or sum(self.mix) <= 0:
            raise UserError(
                f"the mix needs {len(LEVELS)} weights, none negative; "
                f"got {','.join(str(w) for w in self.mix)}; give e.g. 3,2,3,3,3,3,1"
            )

    @property
    def shards(self) -> int:
        """Number of shards; the last may be short."""
        return -(-self.episodes // self.worlds)


def parse_mix(mix: str) -> tuple[float, ...]:
    """Weights from "3,2,3,3,3,3,1".

    Raises:
      UserError: one of them is not a number.
    """
    try:
        return tuple(float(weight) for weight in mix.split(","))
    except ValueError as error:
        raise UserError(
            f"the mix needs {len(LEVELS)} numbers with commas between; got {mix!r}; "
            "give e.g. 3,2,3,3,3,3,1"
        ) from error


class Choice(NamedTuple):
    """What each world of a shard shows, int32 [B] each."""

    task: np.ndarray
    level: np.ndarray
    other: np.ndarray  # a task by which the run is judged too, or `task` again
    policy: np.ndarray  # which of the policies acts, if there are any


def choose(config: SynthConfig, shard: int, policies: Sequence[Policy] = ()) -> Choice:
    """Draws what a shard shows.

    Families get equal shares, tasks within a family too; those whose runs are told only
    once get two shares, so that all are told alike often. Levels go by the mix. Policies
    get equal shares, each with its task.
    """
    rng = np.random.default_rng([config.seed, shard, SPLITS.index(config.split), 0])
    if policies:
        policy = rng.integers(len(policies), size=config.worlds)
        task = [task_index(policies[i].task) for i in policy]
        level = np.full(config.worlds, POLICY)
        return _choice(rng, config.split, task, level, policy)
    families: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(TASKS):
        if task.split == config.split:
            families[task.family].append(index)
    names = sorted(families)
    if config.split == "train":
        once = [n for n in names if others(families[n][0], "train") == families[n][:1]]
        names += once
    # a shuffled round robin: equal counts, in an order that tells nothing
    order = rng.permutation(np.arange(config.worlds) + rng.integers(len(names)))
    task = [rng.choice(families[names[i % len(names)]]) for i in order]
    weights = np.array(config.mix) / sum(config.mix)
    level = rng.choice(len(weights), config.worlds, p=weights)
    return _choice(rng, config.split, task, level, np.zeros_like(level))


def _choice(
    rng: np.random.Generator, split: str, task: Any, level: Any, policy: Any
) -> Choice:
    other = [rng.choice(others(int(i), split)) for i in task]
    return Choice(*(np.array(row, np.int32) for row in (task, level, other, policy)))


def load_policies(config: SynthConfig) -> list[Policy]:
    """Reads the policies.

    Raises:
      UserError: one is damaged, or its task belongs to the other split.
    """
    found = [policies.load(Path(path)) for path in config.policies]
    for path, policy in zip(config.policies, found, strict=True):
        split = TASKS[task_index(policy.task)].split
        if split != config.split:
            raise UserError(
                f"what is shown belongs to the split {config.split!r}; the policy "
                f"{path} was learned for {policy.task}, which is {split!r}; "
                "leave it out"
            )
    return found


def others(task: int, split: str) -> list[int]:
    """Training tasks that move the same thing otherwise; the task itself if none.

    Only runs for training are told twice. Placing is left out: it needs a plate.
    """
    spec = TASKS[task]
    found = [
        index
        for index, other in enumerate(TASKS)
        if other.split == "train" == split
        and other.noun == spec.noun
        and other.verb not in (spec.verb, "place")
    ]
    return found or [task]


def synthesise(folder: Path | str, config: SynthConfig) -> dict[str, Any]:
    """Writes a data set, or continues one; returns the content of `result.json`.

    Raises:
      UserError: the folder holds another data set or cannot be written.
    """
    folder = Path(folder)
    actors = load_policies(config)
    run = Run(folder, "synth", config)
    if run.finished and (folder / "dataset_info.json").exists():
        return read_json(folder / "result.json")
    source.remove_leftovers(folder)
    paths = [
        source.shard_path(folder, config.split, i, config.shards)
        for i in range(config.shards)
    ]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    done = config.episodes - sum(_length(config, i) for i in missing)
    began, made = time.monotonic(), 0
    if missing:
        shape = (config.stride, config.frames, config.size, config.wrist)
        recorder = Recorder(*shape, actors)
        with Bar("synth", config.episodes, "episodes", done) as bar:
            for index in missing:
                choice = choose(config, index, actors)
                made_here = _shard(recorder, config, index, choice)
                size = source.write_shard(paths[index], made_here)
                made += _length(config, index)
                bar.update(done + made)
                run.log(done + made, {"shard": index, "bytes": size})
    seconds = time.monotonic() - began
    spec = records.features(config.frames, config.size, config.wrist)
    source.write_metadata(folder, config.split, spec, config.shards)
    result = statistics(source.open_source(folder))
    result |= {"wall_seconds": seconds, "episodes_per_second": made / seconds}
    run.finish(result)
    return result


def _length(config: SynthConfig, shard: int) -> int:
    return min(config.worlds, config.episodes - shard * config.worlds)


def _shard(
    recorder: Recorder, config: SynthConfig, shard: int, choice: Choice
) -> list[Episode]:
    split = SPLITS.index(config.split)
    key = jax.random.fold_in(
        jax.random.fold_in(jax.random.key(config.seed), split), shard
    )
    recording, scene = recorder.record(key, *choice)
    made = []
    for world in range(_length(config, shard)):
        rng = np.random.default_rng([config.seed, shard, split, 1 + world])
        episode = episodes.assemble(
            recording,
            world,
            scenes.label(int(choice.task[world]), scene, world, config.split),
            name=f"{config.split}-{config.seed}-{shard * config.worlds + world:07d}",
            stride=config.stride,
            rng=rng,
        )
        retold = episodes.retell(episode, recording, world, rng)
        made += [episode] if retold is None else [episode, retold]
    return made


def statistics(data: source.Source) -> dict[str, Any]:
    """Counts over a data set: families, levels, successes, labels, sources."""
    families: dict[str, list[bool]] = defaultdict(list)
    levels: dict[int, list[bool]] = defaultdict(list)
    sources: Counter[str] = Counter()
    labels: list[int] = []
    for index in range(len(data)):
        episode = data[index]
        families[episode.family].append(episode.success)
        levels[episode.level].append(episode.success)
        sources.update(query.source for query in episode.queries)
        labels += [q.progress for q in episode.queries if q.source == "progress"]
    edges = np.arange(-100, 101, _HISTOGRAM_PERCENT)
    counts, _ = np.histogram(labels, edges)
    return {
        "episodes": len(data),
        "queries": sum(sources.values()),
        "sources": dict(sorted(sources.items())),
        "families": _shares(families),
        "levels": {_LEVEL_NAMES[k]: v for k, v in _shares(levels).items()},
        "labels": {
            f"{low}..{low + _HISTOGRAM_PERCENT}": int(count)
            for low, count in zip(edges[:-1], counts, strict=True)
        },
    }


def _shares(groups: dict[Any, list[bool]]) -> dict[Any, dict[str, float]]:
    return {
        key: {"episodes": len(group), "success": round(float(np.mean(group)), 3)}
        for key, group in sorted(groups.items())
    }
