"""Make a self-contained HTML page of a run: results, curves, films with thoughts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 report` draws."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of an earlier command."""
    out: Path | None = None
    """The page; report.html in the run folder by default."""


def run(args: Args) -> None:
    """Writes the page and prints where it is."""
    from soler1_jax.viz.report import write_report

    print(write_report(args.folder, args.out))
