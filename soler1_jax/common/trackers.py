"""Metrics of a run for the programs in which people watch them.

TensorBoard always (`tensorboard --logdir RUN`), Weights & Biases if WANDB_PROJECT is set.
`metrics.jsonl` stays the record; these are copies of its numbers.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soler1_jax.common.errors import UserError

FOLDER = "tensorboard"


class Trackers:
    """Where the numbers of a run go beside its own file.

    Args:
      folder: of the run.
      config: what was asked, for trackers that show it.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config
        self._after: int | None = None
        self._writers: list[Any] | None = None

    def forget_after(self, step: int) -> None:
        """Lets a continued run write later steps anew; call it before the first `log`."""
        self._after = step

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Passes on what is a number; names get the stage in front, if there is one.

        Raises:
          UserError: W&B is asked for and not installed.
        """
        if self._writers is None:
            self._writers = [_TensorBoard(self._folder / FOLDER, self._after)]
            if os.environ.get("WANDB_PROJECT"):
                self._writers.append(_WandB(self._folder, self._config))
        prefix = f"{metrics['stage']}/" if "stage" in metrics else ""
        numbers = {
            prefix + name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step"
        }
        for writer in self._writers:
            writer.log(step, numbers)


class _TensorBoard:
    """An event file, written at once: no thread that has to be ended."""

    def __init__(self, folder: Path, after: int | None) -> None:
        # Takes a third of a second, so not before there is something to write.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Names hold whole seconds, in which a run may have continued.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        if after is not None:
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=after + 1, session_log=log)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items()
        ]
        self._write(step=step, summary=self._summary(value=values))

    def _write(self, **fields: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **fields))
        self._file.flush()


class _WandB:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "WANDB_PROJECT is set, but wandb is not installed; pip install wandb, or "
                "unset it"
            ) from error
        name = str(folder.resolve())
        self._run = wandb.init(
            project=os.environ["WANDB_PROJECT"],
            dir=name,
            # The same folder is the same run, also when it continues.
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)
