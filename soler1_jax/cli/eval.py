"""Measure a rewarder against the truth.

`rewarder` has it judge its own roll-outs over simulated episodes of tasks that it was
never trained on, and of held-out scenes, beside controls that understand nothing.
`probes` changes what it is shown, measures where it sees things and edits its thoughts,
to tell what its answers rest on. `attack` searches for states that it praises wrongly.
`videos` has it score real videos that come with a ground truth.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from soler1_jax.cli import eval_attack
from soler1_jax.cli.asking import Readout
from soler1_jax.cli.eval_attack import Attack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rewarder:
    """Own roll-outs over simulated episodes, beside controls."""

    out: Path
    """Run folder: result.json, report.html, and the episodes."""
    rewarder: str = "nano"
    """nano, a model's folder, oracle, random or time."""
    readout: Literal["greedy", "sampled", "expected", "glance"] = "glance"
    """How a model's progress is read; the others stand beside it where they can."""
    caution: float = 0.0
    """Standard deviations of the value head's distribution taken off its mean."""
    episodes: int = 200
    """Episodes of unseen tasks."""
    seen_episodes: int = 100
    """Held-out episodes of trained tasks; 0 for none."""
    seed: int = 0
    """Of the episodes and of the rewarder's sampling."""
    batch: int = 32
    """Episodes judged at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
    """Videos with a ground truth, beside other rewarders' outputs on them."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder with NAME.mp4, NAME.ground_truth.json and, optionally, NAME.OTHER.json."""
    out: Path
    """Run folder: result.json and report.html."""
    rewarder: str = "nano"
    """nano, a model's folder, that of a released Qwen3-VL rewarder, random or time."""
    readout: Readout | None = None
    """How a model's progress is read, see `soler1 reward`."""
    views: str = "both-split"
    """How a frame holds the cameras: external, wrist, or both-split."""
    count: int = 10
    """Frames shown of each video, the first one included."""
    seed: int = 0
    """Of the rewarder's sampling."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probes:
    """Changed films and frames, and where the model sees things."""

    out: Path
    """Run folder: result.json, and the episodes."""
    rewarder: str = "nano"
    """nano, or a model's folder."""
    readout: Literal["greedy", "sampled", "expected", "glance"] = "glance"
    """How a model's progress is read."""
    episodes: int = 120
    """Episodes of unseen tasks, and as many held-out ones of trained tasks."""
    edited_episodes: int = 40
    """How many of them have their thoughts edited, clause by clause."""
    seed: int = 0
    """Of the episodes and of the rewarder's sampling."""
    batch: int = 32
    """Episodes judged at once."""


Args = Rewarder | Probes | Attack | Videos

# Films on the page of `eval rewarder`.
_FILMS = 6
# Side in pixels of the films on the page of `eval videos`.
_FILM_SIZE = 96
_CONTROLS = ("random", "time")


def run(args: Args) -> None:
    """Evaluates; prints the figures and where the page is."""
    from soler1_jax.common import compile_cache

    compile_cache.enable()
    if isinstance(args, Videos):
        _videos(args)
    elif isinstance(args, Probes):
        _probes(args)
    elif isinstance(args, Attack):
        eval_attack.run(args)
    else:
        _rewarder(args)


def _rewarder(args: Rewarder) -> None:
    from soler1_jax.common.errors import require_non_negative, require_positive
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.evals import rewarder as evals
    from soler1_jax.reward.load import load_rewarder
    from soler1_jax.reward.vlm import VLMSettings
    from soler1_jax.viz.report import write_report

    began = time.monotonic()
    require_positive("episodes", args.episodes)
    require_positive("batch", args.batch)
    require_non_negative("seed", args.seed)
    require_non_negative("seen episodes", args.seen_episodes)
    settings = VLMSettings(readout=args.readout, caution=args.caution)
    rewarder = load_rewarder(args.rewarder, settings)
    controls = {name: load_rewarder(name) for name in _CONTROLS}
    run = Run(args.out, "eval rewarder", args)
    counts = {"unseen": args.episodes, "train": args.seen_episodes}
    episodes = {
        split: evals.evaluation_episodes(
            args.out / "data" / split, split, count, args.seed
        )
        for split, count in counts.items()
        if count
    }
    found = evals.evaluate(
        rewarder, controls, episodes, seed=args.seed, batch=args.batch
    )
    _save_films(args.out / "episodes", found.judged["unseen"])
    seconds = time.monotonic() - began
    run.finish({"command": command_line(), **found.result, "wall_seconds": seconds})
    page = write_report(args.out)
    _print_comparison(found.result)
    print(f"result: {args.out / 'result.json'}\npage: {page}")


def _save_films(folder: Path, judged: Any) -> None:
    """Keeps episodes from the smallest to the largest error, evenly spaced."""
    import numpy as np

    from soler1_jax.viz.episodes import EpisodeView, save_episode

    error = np.abs(judged.rollout.progress - judged.true).mean(1)
    order = np.argsort(error)
    places = np.linspace(0, len(order) - 1, min(_FILMS, len(order))).astype(int)
    for rank, index in enumerate(order[places]):
        episode = judged.episodes[index]
        said = np.concatenate([[0.0], judged.rollout.progress[index]])
        place = ("smallest error", "median", "largest error")
        where = place[0 if rank == 0 else 2 if rank == len(places) - 1 else 1]
        if 0 < rank < len(places) - 1:
            where = f"{100 * places[rank] / (len(order) - 1):.0f} % have less error"
        view = EpisodeView(
            frames=episode.external,
            wrist=episode.wrist,
            predicted=said,
            true=episode.progress,
            thoughts=["", *judged.thoughts[index]],
            task=episode.sentence,
            success=episode.success,
            title=f"{where}: {error[index]:.1f} %",
        )
        save_episode(folder / f"{rank}.npz", view)


def _print_comparison(result: dict[str, Any]) -> None:
    """A table of the rewarder and its controls on every split."""
    from rich.console import Console
    from rich.table import Table

    for split, figures in result["splits"].items():
        shown = Table(title=f"{split}: {figures['episodes']} episodes")
        columns = ("mae", "pearson", "spearman", "kendall_tau_a", "auc_highest")
        for name in ("rewarder", *columns):
            shown.add_column(name, justify="left" if name == "rewarder" else "right")
        rows = {result["rewarder"]: figures} | result["controls"][split]
        for name, row in rows.items():
            shown.add_row(name, *(_shown(row[c]) for c in columns))
        Console().print(shown)
    print(
        f"copy slope {result['copy_slope']:.3f} ({result['copy_slope_how']}), "
        f"parse rate {100 * result['parse_rate']:.1f} %, "
        f"{result['queries_per_second']:.0f} queries/s"
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _probes(args: Probes) -> None:
    from soler1_jax.common.errors import require_non_negative, require_positive
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.evals.intervention import intervene
    from soler1_jax.evals.localisation import localise
    from soler1_jax.evals.probes import probe
    from soler1_jax.evals.rewarder import evaluation_episodes
    from soler1_jax.model.functional import Functional
    from soler1_jax.reward.load import load_parts, load_rewarder
    from soler1_jax.reward.vlm import VLMSettings

    began = time.monotonic()
    require_positive("episodes", args.episodes)
    require_positive("edited episodes", args.edited_episodes)
    require_positive("batch", args.batch)
    require_non_negative("seed", args.seed)
    config, params, tokenizer = load_parts(args.rewarder)
    rewarder = load_rewarder(args.rewarder, VLMSettings(readout=args.readout))
    run = Run(args.out, "eval probes", args)
    result: dict[str, Any] = {}
    for split in ("unseen", "train"):
        folder = args.out / "data" / split
        episodes = evaluation_episodes(folder, split, args.episodes, args.seed)
        result[split] = probe(rewarder, episodes, seed=args.seed, batch=args.batch)
        if config.grounding:
            result[split]["localisation"] = localise(
                Functional(config), params, tokenizer, episodes
            )
        # A thought that is edited costs as much as one that is written.
        result[split]["edited thoughts"] = intervene(
            Functional(config), params, tokenizer, episodes[: args.edited_episodes]
        )
    seconds = time.monotonic() - began
    run.finish({"command": command_line(), **result, "wall_seconds": seconds})
    _print_probes(result)
    print(f"result: {args.out / 'result.json'}")


def _print_probes(result: dict[str, Any]) -> None:
    """Tables of films, frames and positions, one after the other."""
    from rich.console import Console
    from rich.table import Table

    for split, figures in result.items():
        for part in ("films", "frames"):
            table = Table("change", title=f"{split}: {part}")
            for column in ("mae", "pearson"):
                table.add_column(column, justify="right")
            for name, row in figures[part].items():
                shown = (_shown(row.get(column)) for column in ("mae", "pearson"))
                table.add_row(name, *shown)
            Console().print(table)
        table = Table("frames", title=f"{split}: distance from the truth, mm")
        for column in ("gripper", "named", "offset"):
            table.add_column(column, justify="right")
        for name, row in figures.get("localisation", {}).items():
            shown = (f"{row[c]['mean_mm']:.1f}" for c in ("gripper", "named", "offset"))
            table.add_row(name, *shown)
        if table.rows:
            Console().print(table)
        _print_edits(split, figures["edited thoughts"])


def _print_edits(split: str, figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", title=f"{split}: edited thoughts, written number in percent")
    columns = ("moved", "reworded", "slope", "follows", "still")
    for column in ("edits", *columns):
        table.add_column(column, justify="right")
    for kind, row in figures.items():
        shown = (_shown(row["number"][column]) for column in columns)
        table.add_row(kind, str(row["edits"]), *shown)
    Console().print(table)


def _videos(args: Videos) -> None:
    from soler1_jax.cli.asking import video_rewarder
    from soler1_jax.common.errors import require_non_negative
    from soler1_jax.common.run import Run, command_line
    from soler1_jax.evals.realvideo import evaluate_folder
    from soler1_jax.viz.report import write_report

    require_non_negative("seed", args.seed)
    began = time.monotonic()
    view = "both" if args.views == "both-split" else args.views
    rewarder = video_rewarder(args.rewarder, args.readout, view)
    run = Run(args.out, "eval videos", args)
    result, scores = evaluate_folder(
        rewarder, args.folder, layout=args.views, count=args.count, seed=args.seed
    )
    for row in result["videos"]:
        _save_film(args, row, scores[row["video"]])
    seconds = time.monotonic() - began
    run.finish({"command": command_line(), **result, "wall_seconds": seconds})
    page = write_report(args.out)
    for video in result["videos"]:
        said = "; ".join(
            f"{name}: Pearson {_shown(row['pearson'])}, MAE {row['mae']:.1f}"
            for name, row in video["by"].items()
        )
        print(f"{video['video']} ({'solved' if video['solved'] else 'failed'}): {said}")
    for name, row in result["summary"].items():
        print(
            f"{name}: mean Pearson {_shown(row['pearson'])}, "
            f"mean Spearman {_shown(row['spearman'])}, MAE {row['mae']:.1f}, "
            f"AUC {_shown(row['auc_highest'])} over {row['videos']} videos"
        )
    print(f"result: {args.out / 'result.json'}\npage: {page}")


def _save_film(args: Videos, row: dict[str, Any], score: Any) -> None:
    """Keeps the frames that the rewarder was shown of one video."""
    import numpy as np

    from soler1_jax.data.video import letterbox, open_video, split_views
    from soler1_jax.viz.episodes import EpisodeView, save_episode

    video = open_video(args.folder / row["file"])
    views = split_views(video.read(score.indices), args.views)
    small = {name: letterbox(frames, _FILM_SIZE) for name, frames in views.items()}
    view = EpisodeView(
        frames=small.get("external", small.get("wrist")),
        wrist=small.get("wrist") if "external" in small else None,
        predicted=score.answers,
        true=np.asarray(row["truth"], np.float32)[score.indices],
        thoughts=score.thoughts,
        task=row["task"],
        success=row["solved"],
        title=row["video"],
    )
    save_episode(args.out / "episodes" / f"{row['video']}.npz", view)
