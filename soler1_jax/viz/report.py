"""One self-contained HTML page of a run folder.

What the folder holds is shown: `result.json` (headline, tasks, evaluation), learning
curves from `metrics.jsonl`, `episodes/*.npz` (viz/episodes.py) as films with progress
and thoughts, `config.json` and `env.json`. Sub-folders belong to the run.
"""

import html
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soler1_jax.common.errors import UserError
from soler1_jax.common.run import read_json, write_bytes
from soler1_jax.viz import curves, evaluation
from soler1_jax.viz.episodes import load_episode
from soler1_jax.viz.page import folded, page, section, table, tiles
from soler1_jax.viz.player import player

MAX_EPISODES = 12
_TITLES = {
    "rl": "A policy trained on a rewarder's progress",
    "quickstart": "Unseen tasks, learnt from the model's own reward",
    "eval rewarder": "How well a rewarder sees progress",
    "eval videos": "A rewarder on videos",
}


def write_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Writes the page of a run.

    Args:
      folder: the run folder.
      out: the file; `report.html` in the folder by default.

    Returns:
      Where the page is.

    Raises:
      UserError: the folder holds no run, or a file in it is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"a run folder is needed; {folder} is none; check the path")
    config = _optional(folder / "config.json")
    result = _optional(folder / "result.json")
    if not config and not result:
        raise UserError(
            f"a run folder holds config.json or result.json; {folder} has neither; "
            "give the --out of an earlier command"
        )
    out = Path(out) if out else folder / "report.html"
    write_bytes(out, render(folder, config, result).encode())
    return out


def render(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The page as text; arguments as `write_report` reads them."""
    command = str(config.get("command", folder.name))
    environment = _optional(folder / "env.json")
    title = _TITLES.get(command, f"Run: {command}")
    date = environment.get("date", "")
    lead = f"soler1 {command} · {folder.name}" + (f" · {date}" if date else "")
    if not result:
        lead += " · not finished yet"
    # The data sets inside an evaluation have metrics, but nothing that is learnt.
    curves_of_run = "" if command.startswith("eval") else _curves(folder)
    return page(
        title,
        lead,
        [
            *_body(result),
            curves_of_run,
            _episodes(folder),
            _about(config, environment),
        ],
    )


def _body(result: Mapping[str, Any]) -> list[str]:
    if "splits" in result and "controls" in result:
        return evaluation.rewarder_sections(result)
    if "videos" in result and "summary" in result:
        return evaluation.video_sections(result)
    return _run_sections(result)


def _run_sections(result: Mapping[str, Any]) -> list[str]:
    """Headline numbers as tiles, every mapping of mappings as a table."""
    figures = {
        name.replace("_", " "): value
        for name, value in result.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    numbers = {k: v for k, v in figures.items() if not isinstance(v, str)}
    parts = [tiles(numbers)] if numbers else []
    tables = [
        section(name.replace("_", " ").capitalize(), _mapping_table(value))
        for name, value in result.items()
        if isinstance(value, Mapping)
        and value
        and all(isinstance(row, Mapping) for row in value.values())
    ]
    return parts + tables


def _mapping_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(
        k for row in rows.values() for k, v in row.items() if not _nested(v)
    )
    body = [
        [key, *(_short(row.get(name)) for name in names)] for key, row in rows.items()
    ]
    return table(["", *(name.replace("_", " ") for name in names)], body)


def _nested(value: Any) -> bool:
    """Whether a value is too deep for a cell: a mapping, or a list of mappings."""
    if isinstance(value, list):
        return any(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    return value


def _curves(folder: Path) -> str:
    drawn = curves.charts(curves.read_metrics(folder))
    content = f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""
    return section("Learning curves", content)


def _episodes(folder: Path) -> str:
    paths = sorted(folder.rglob("episodes/*.npz"))
    shown = _spread(paths, MAX_EPISODES)
    players = [player(load_episode(p), f"e{i}") for i, p in enumerate(shown)]
    note = "The rewarder is asked at the frames shown below each film."
    if len(paths) > len(shown):
        note += f" {len(shown)} of {len(paths)} episodes are shown."
    return section("Episodes", *players, note=note)


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Up to `count` paths, equally many of each kind; numbers make no kind.

    So every task, before and after learning, is seen, whatever the number of seeds.
    """
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(re.sub(r"\d+", "", str(path)), []).append(path)
    turns = itertools.zip_longest(*kinds.values())
    chosen = [path for turn in turns for path in turn if path is not None]
    return sorted(chosen[:count])


def _about(config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    parts = []
    if environment:
        packages = environment.get("packages", {})
        rows = [[k, v] for k, v in environment.items() if k != "packages"]
        parts.append(table(["environment", ""], [*rows, *packages.items()], text=True))
    if config:
        shown = html.escape(json.dumps(config, indent=1))
        parts.append(folded("Settings of this run", f"<pre>{shown}</pre>"))
    return section("How it was made", *parts)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
