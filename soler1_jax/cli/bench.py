"""Measure speeds on this machine.

`render` counts pictures a second beside MuJoCo's Warp renderer. `loop` counts control
steps a second of physics alone, with pixels, with the policy, with the rewarder and with
learning, and of the same weights behind a local server. `generate` counts tokens a second
of a video-language model beside transformers, `train` its training steps beside torch,
`rlvr` the two halves of a step of GRPO.
`attention` times the attention kernels beside `jax.nn`.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

_REPEATS = 5
_RENDER_COLUMNS = {
    "renderer": "renderer",
    "worlds": "worlds",
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
_GENERATE_COLUMNS = {
    "side": "generation",
    "prefill_tokens_per_second": "prompt tokens/s",
    "decode_tokens_per_second": "new tokens/s",
    "prefill_times_transformers": "prefill, times",
    "decode_times_transformers": "decode, times",
    "prefill_cpu_times_transformers": "prefill, times in CPU s",
    "decode_cpu_times_transformers": "decode, times in CPU s",
    "same_tokens": "same tokens",
    "prefill_mfu": "prefill MFU",
    "decode_bandwidth_share": "decode bandwidth",
}
_TRAIN_COLUMNS = {
    "side": "training",
    "tokens_per_second": "tokens/s",
    "times_transformers": "times",
    "mfu": "MFU",
    "step_seconds": "step, s",
    "first_loss": "first loss",
    "last_loss": "last loss",
}
_RLVR_COLUMNS = {
    "part": "GRPO",
    "seconds": "s",
    "rewards_per_second": "rewards/s",
    "new_tokens_per_second": "new tokens/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "mismatch_nats": "mismatch, nats",
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
    worlds: tuple[int, ...] = (128,)
    """Scenes drawn at once; each number is timed."""
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
class Generate:
    """Tokens a second of a random video-language model, beside transformers."""

    out: Path
    """Run folder; result.json is written there."""
    preset: str = "small"
    """small (78 M parameters), qwen3-vl-2b, -4b or -8b."""
    batch: int = 8
    """Prompts at once."""
    prompt_tokens: int = 896
    """Tokens of a prompt, those of its pictures included."""
    new_tokens: int = 64
    """Tokens written to each prompt."""
    pictures: int = 3
    """In each prompt."""
    picture_side: int = 512
    """In pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; on a CPU text is written in float32 only."""
    peer: bool = True
    """Whether to time transformers.generate too (needs the extra `parity`)."""
    repeats: int = _REPEATS
    """Rounds in which both sides take turns; medians count."""
    seed: int = 0
    """Of weights and prompts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Training steps of a random video-language model, beside torch and transformers."""

    out: Path
    """Run folder; result.json is written there."""
    preset: str = "small"
    """small (78 M parameters), qwen3-vl-2b, -4b or -8b."""
    rows: int = 1
    """Packed rows of a batch."""
    records: int = 10
    """Records of a row."""
    record_tokens: tuple[int, ...] = (574,) * 4 + (101,) * 3 + (167,) * 3
    """Tokens of a record, those of its pictures included; one number, or one for each
    record of a row. The other side fills shorter ones up to the longest. The default is
    the paper's mixture as `soler1 sft-vlm` makes it of `soler1 synth`'s data: 4 progress
    queries, 3 spatial and 3 temporal questions."""
    answer_tokens: int = 24
    """The last tokens of a record, whose prediction counts."""
    pictures: tuple[int, ...] = (1,) * 7 + (2,) * 3
    """In each record; one number, or one for each record of a row."""
    picture_side: tuple[int, ...] = (672,) * 4 + (256,) * 6
    """In pixels; one number, or one for each record of a row."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products; weights are float32."""
    remat: bool = False
    """Whether layers are computed again in the backward pass, on both sides."""
    peer: bool = True
    """Whether to time torch and transformers too (needs the extra `parity`)."""
    repeats: int = _REPEATS
    """Rounds in which both sides take turns; medians count."""
    seed: int = 0
    """Of weights and records."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rlvr:
    """Steps of GRPO of a random video-language model: completions and update."""

    out: Path
    """Run folder; result.json is written there."""
    preset: str = "small"
    """small (78 M parameters), qwen3-vl-2b, -4b or -8b."""
    prompts: int = 2
    """Prompts of a step."""
    group: int = 8
    """Completions of each."""
    prompt_tokens: int = 512
    """Tokens of a prompt, those of its pictures included."""
    new_tokens: int = 64
    """Tokens of a completion."""
    pictures: int = 1
    """In each prompt."""
    picture_side: int = 384
    """In pixels."""
    top_p: float = 0.9
    """Share of probability that sampling keeps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products; weights are float32. On a CPU text is written in
    float32 only."""
    remat: bool = False
    """Whether layers are computed again in the backward pass."""
    repeats: int = _REPEATS
    """Timed steps; medians count."""
    seed: int = 0
    """Of weights, prompts, samples and rewards."""


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


Args = Render | Loop | Generate | Train | Rlvr | Attention


def run(args: Args) -> None:
    """Measures, prints a table, and writes the run folder.

    Raises:
      UserError: a number is out of range, a name is unknown, or a comparison is wanted
        and its packages are missing.
    """
    from soler1_jax.common.errors import require_non_negative, require_positive
    from soler1_jax.common.run import Run, command_line

    require_positive("repeats", args.repeats)
    require_non_negative("the seed", args.seed)
    if isinstance(args, Generate):
        from soler1_jax.cli import bench_generate as bench

        for name in ("batch", "prompt_tokens", "pictures"):
            require_positive(name, getattr(args, name))
        command, columns = "bench generate", _GENERATE_COLUMNS
    elif isinstance(args, Train):
        from soler1_jax.cli import bench_train as bench

        for name in ("rows", "records"):
            require_positive(name, getattr(args, name))
        for name in ("record_tokens", "pictures", "picture_side"):
            for number in getattr(args, name):
                require_positive(name, number)
        command, columns = "bench train", _TRAIN_COLUMNS
    elif isinstance(args, Rlvr):
        from soler1_jax.cli import bench_rlvr as bench

        for name in ("prompts", "pictures"):
            require_positive(name, getattr(args, name))
        command, columns = "bench rlvr", _RLVR_COLUMNS
    elif isinstance(args, Render):
        from soler1_jax.cli import bench_render as bench

        for count in args.worlds:
            require_positive("worlds", count)
        for size in args.sizes:
            require_positive("a picture's side", size)
        command, columns = "bench render", _RENDER_COLUMNS
    elif isinstance(args, Attention):
        from soler1_jax.cli import bench_attention as bench

        command, columns = "bench attention", _ATTENTION_COLUMNS
    else:
        from soler1_jax.cli import bench_loop as bench

        require_positive("worlds", args.worlds)
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
    if isinstance(args, Generate | Train) and not args.peer:
        print("transformers was not timed (--no-peer)")
    folder.finish({"command": command_line(), "rows": rows})


def _line(row: dict[str, Any], columns: dict[str, str]) -> str:
    return "  ".join(f"{columns[name]}: {row[name]}" for name in columns if name in row)


def _print(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    columns = {n: t for n, t in columns.items() if any(n in row for row in rows)}
    for index, title in enumerate(columns.values()):
        table.add_column(title, justify="right" if index else "left")
    for row in rows:
        cells = (row.get(name) for name in columns)
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    Console().print(table)
