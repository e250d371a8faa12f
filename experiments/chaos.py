"""Kills long commands at random moments, again and again, and compares how they end.

    python experiments/chaos.py

Synthesis, supervised training and GRPO at small size, each once undisturbed and once
killed (`kill -9`) ten times after random delays, always started again with the same
command. In the end both must have the same records, losses and weights, to the bit, and
no half-written file may be left. Figures: experiments/results/chaos.json. About 25 minutes
on one CPU core.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from soler1_jax.common.run import command_line, environment, read_json, write_json

CALL = [sys.executable, "-c", "from soler1_jax.cli import main; main()"]
# Written beside what they replace, and gone when they have replaced it.
LEFTOVERS = ("*.tmp", "*.part", "*.new", "*.old", "*orbax-checkpoint-tmp*")
# Clocks, and what tells how a run came about rather than what came out.
TIMES = ("seconds", "wall_seconds", "episodes_per_second", "command", "elapsed_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What is tried."""

    kills: int = 10
    """Kills of each command."""
    seed: int = 0
    """Of their moments."""
    runs: Path = Path("runs/chaos")
    """Where the commands write; removed first."""
    out: Path = Path("experiments/results/chaos.json")
    """Where the figures go."""


def main(args: Args) -> None:
    """Runs everything and writes the figures."""
    shutil.rmtree(args.runs, ignore_errors=True)
    args.runs.mkdir(parents=True, exist_ok=True)
    chance = random.Random(args.seed)
    rows = {}
    for name, command in commands(args.runs).items():
        whole, broken = args.runs / name / "whole", args.runs / name / "broken"
        # Compiles what the runs that are timed and killed find compiled.
        undisturbed(command, args.runs / name / "first")
        seconds = undisturbed(command, whole)
        kills = disturbed(command, broken, args.kills, seconds, chance)
        rows[name] = {
            "kills": kills,
            "undisturbed_seconds": round(seconds, 1),
            "same": contents(whole) == contents(broken),
            "leftovers": leftovers(broken),
        }
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
    total = sum(row["kills"] for row in rows.values())
    write_json(
        args.out,
        {
            "command": command_line(),
            "environment": environment(),
            "kills": total,
            **rows,
        },
    )
    if not all(row["same"] and not row["leftovers"] for row in rows.values()):
        sys.exit("a killed command did not end as the undisturbed one did")


def commands(runs: Path) -> dict[str, list[str]]:
    """Name -> command without its folder; later ones use what earlier ones made."""
    data, model = runs / "synth" / "whole", runs / "sft" / "whole" / "model"
    synth = ["synth", "--episodes", "48", "--worlds", "8", "--seed", "5"]
    small = ["--data", data, "--episodes", "2", "--queries", "2", "--log-every", "1"]
    small += ["--save-every", "2"]
    sft = ["sft", *small, "--model", "pico", "--perception-episodes", "2"]
    sft += [
        "--perception-steps",
        "30",
        "--compare-steps",
        "15",
        "--progress-steps",
        "30",
    ]
    rlvr = ["rlvr", *small, "--model", model, "--steps", "30", "--group", "4"]
    named = {"synth": synth, "sft": sft, "rlvr": rlvr}
    return {name: list(map(str, command)) for name, command in named.items()}


def start(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Starts a command that writes into a folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen([*CALL, *command, "--out", out], stdout=log, stderr=log)


def undisturbed(command: list[str], out: Path) -> float:
    """Runs a command to its end; returns its seconds."""
    begun = time.monotonic()
    if start(command, out).wait():
        sys.exit(f"{' '.join(command)} failed; see {out.parent}")
    return time.monotonic() - begun


def disturbed(
    command: list[str], out: Path, kills: int, seconds: float, chance: random.Random
) -> int:
    """Runs a command that is killed `kills` times, then to its end.

    Delays reach from the start of the process to where an undisturbed one would end, so
    imports, compilation, steps, checkpoints and the last files are all hit. A run that
    ends before it has been killed often enough begins anew, in an empty folder.
    """
    done = 0
    while done < kills:
        process = start(command, out)
        try:
            process.wait(timeout=chance.uniform(0.5, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            continue
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed; see {out.parent}")
        shutil.rmtree(out)
    if start(command, out).wait():
        sys.exit(f"{' '.join(command)} failed; see {out.parent}")
    return done


def contents(folder: Path) -> dict[str, Any]:
    """What a run ended with: logs without their clocks, and digests of data and weights."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            lines = path.read_text().splitlines()
            found[name] = [_timeless(json.loads(line)) for line in lines]
        elif path.name in ("result.json", "best.json"):
            found[name] = _timeless(read_json(path))
        elif path.suffix == ".npz" or ".array_record-" in path.name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {k: _timeless(v) for k, v in row.items() if k not in TIMES}


def leftovers(folder: Path) -> list[str]:
    """Temporary files that nobody removed."""
    found = {path for form in LEFTOVERS for path in folder.rglob(form)}
    found |= {p for form in LEFTOVERS for p in folder.rglob(f".{form}")}
    return sorted(str(path.relative_to(folder)) for path in found)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main(tyro.cli(Args, description=__doc__))
