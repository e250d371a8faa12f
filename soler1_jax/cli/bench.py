"""Measure speeds on this machine.

`render` counts pictures a second beside MuJoCo's Warp renderer. `loop` counts control
steps a second of physics alone, with pixels, with the policy, with the rewarder and with
learning, and of the same weights behind a local server. `attention` times the attention
kernels beside `jax.nn`.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

_REPEATS = 5
_RENDER_COLUMNS = {
    "renderer": "renderer",
    "size": "pixels",
    "shadows": "shadows",
    "frames_per_second": "frames/s",
    "times_warp": "times Warp",
    "first_call_seconds": "first call, s",
}
_LOOP_COLUMNS = {
    "part": "loop",
    "every": "k",
    "control_steps_per_second": "control steps/s",
    "times_slower": "times slower",
    "first_call_seconds": "first call, s",
}
_ATTENTION_COLUMNS = {
    "attention": "attention",
    "pass": "pass",
    "milliseconds": "ms",
    "jax_nn_milliseconds": "jax.nn, ms",
    "times_faster": "times faster",
    "work": "share of pairs",
    "megabytes": "MB",
    "jax_nn_megabytes": "jax.nn, MB",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render:
    """Pictures a second of task scenes, beside mujoco.mjx.render."""

    out: Path
    """Run folder; result.json is written there."""
    worlds: int = 128
    """Scenes drawn at once."""
    sizes: tuple[int, ...] = (32, 64)
    """Sides of the pictures in pixels."""
    warp: bool = True
    """Whether to time mujoco.mjx.render too (needs the extra `bench`)."""
    repeats: int = _REPEATS
    """Timed calls; the best counts."""
    seed: int = 0
    """Of the scenes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """Control steps a second, part by part, and beside a local server."""

    out: Path
    """Run folder; result.json is written there."""
    rewarder: str = "nano"
    """nano, random, time, or a model's folder."""
    worlds: int = 32
    """Episodes at once."""
    every: tuple[int, ...] = (5, 10)
    """Control steps between two questions; each divides the episode's 40."""
    task: str = "reach-red-cube"
    """Name of a task, as `soler1 tasks` lists them."""
    server: bool = True
    """Whether to time the same weights behind a server process too."""
    repeats: int = _REPEATS
    """Timed episodes; the best counts."""
    seed: int = 0
    """Of the scenes and the policy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """Milliseconds of attention as the models call it, beside jax.nn."""

    out: Path
    """Run folder; result.json is written there."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of queries, keys and values."""
    repeats: int = _REPEATS
    """Timed calls; the best counts."""
    seed: int = 0
    """Of the numbers."""


Args = Render | Loop | Attention


def run(args: Args) -> None:
    """Measures, prints a table, and writes the run folder.

    Raises:
      UserError: a number is out of range, a task or rewarder is unknown, or
        mujoco.mjx.render is wanted and its packages are missing.
    """
    from soler1_jax.common.errors import require_non_negative, require_positive
    from soler1_jax.common.run import Run, command_line

    require_positive("repeats", args.repeats)
    require_non_negative("the seed", args.seed)
    if not isinstance(args, Attention):
        require_positive("worlds", args.worlds)
    if isinstance(args, Render):
        from soler1_jax.cli import bench_render as bench

        for size in args.sizes:
            require_positive("a picture's side", size)
        command, columns = "bench render", _RENDER_COLUMNS
    elif isinstance(args, Attention):
        from soler1_jax.cli import bench_attention as bench

        command, columns = "bench attention", _ATTENTION_COLUMNS
    else:
        from soler1_jax.cli import bench_loop as bench

        command, columns = "bench loop", _LOOP_COLUMNS
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    measured, rows = bench.measure(**settings), []
    # the first row comes before the folder: a mistake leaves no folder behind
    first = next(measured)
    folder = Run(args.out, command, args)
    for row in itertools.chain([first], measured):
        folder.log(len(rows), row)
        rows.append(row)
        print(_line(row, columns), flush=True)
    _print(rows, columns)
    folder.finish({"command": command_line(), "rows": rows})


def _line(row: dict[str, Any], columns: dict[str, str]) -> str:
    return "  ".join(f"{columns[name]}: {row[name]}" for name in columns if name in row)


def _print(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, title in enumerate(columns.values()):
        table.add_column(title, justify="right" if index else "left")
    for row in rows:
        cells = (row.get(name) for name in columns)
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    Console().print(table)
