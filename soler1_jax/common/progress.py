"""Progress bars with rate and time left; plain lines where there is no terminal."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_PLAIN_INTERVAL_S = 10.0


class Bar:
    """Counts units of work towards a total.

    On a terminal it draws a bar; elsewhere (a log file, CI) it prints a line at most
    every ten seconds, so logs stay readable.

    Args:
      label: what is being done.
      total: units in all.
      unit: what is counted, plural, e.g. "steps".
      done: units done by an earlier run that this one continues.
    """

    def __init__(self, label: str, total: int, unit: str = "steps", done: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self.done = self._start_done = done
        self._start = self._last = time.monotonic()
        self._note = ""
        self._live: Progress | None = None
        if sys.stderr.isatty():
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._live.add_task(
                label, total=total, completed=done, rate="", note=""
            )

    @property
    def rate(self) -> float:
        """Units a second since this bar was made."""
        return (self.done - self._start_done) / max(
            time.monotonic() - self._start, 1e-9
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        elif kind is None:
            self._print()

    def update(self, done: int, note: str = "") -> None:
        """Sets how many units are done, and a short note such as a loss."""
        self.done, self._note = done, note
        if self._live:
            self._live.update(
                self._task,
                completed=done,
                rate=f"{self.rate:.3g} {self.unit}/s",
                note=note,
            )
        elif time.monotonic() - self._last > _PLAIN_INTERVAL_S:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        left = (self.total - self.done) / self.rate if self.rate else float("inf")
        eta = f"{left:.0f} s left" if left < float("inf") else "time left unknown"
        line = f"{self.label}: {self.done}/{self.total} {self.unit}, "
        line += f"{self.rate:.3g} {self.unit}/s, {eta} {self._note}"
        print(line.rstrip(), file=sys.stderr, flush=True)
