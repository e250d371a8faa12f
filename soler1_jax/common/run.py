"""The run folder that every long command writes.

`config.json` what was asked, `env.json` versions and device, `metrics.jsonl` one JSON
object a line (copied for TensorBoard, see trackers.py), `result.json` the headline
figures, written last. Files are replaced atomically, so a killed command leaves either the
old or the new one. Running the same command again continues; running another one in the
same folder is refused, and so is a second process while the first is still at it.
"""

import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from soler1_jax.common.errors import UserError, disk_errors
from soler1_jax.common.trackers import Trackers

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "mujoco", "mujoco-mjx", "numpy")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON through a temporary file in the same folder."""
    write_bytes(path, (json.dumps(value, indent=1, default=_plain) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` never holds half of it."""
    path = Path(path)
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """Returns versions, device, core count and date, for `env.json`."""
    import jax

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "packages": versions,
        "platform": device.platform,
        "device": device.device_kind,
        "device_count": jax.device_count(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }


class Run:
    """A run folder, opened for writing.

    Args:
      folder: created if it does not exist.
      command: the subcommand's name, e.g. "sft".
      config: a dataclass or mapping; it must be equal when a folder is opened again,
        save for the keys in `may_change`.
      may_change: keys that a continued run may have different (a larger step count).
      writes: False for all but the first process of a run on several hosts.

    Raises:
      UserError: the folder holds another run, is being written by another process, or
        cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        command: str,
        config: Any,
        may_change: tuple[str, ...] = (),
        writes: bool = True,
    ):
        self.folder = Path(folder)
        config = (
            dataclasses.asdict(config)
            if dataclasses.is_dataclass(config)
            else dict(config)
        )
        config = json.loads(json.dumps({"command": command, **config}, default=_plain))
        self.started = time.monotonic()
        self.writes = writes
        self.trackers = Trackers(self.folder, config)
        if not writes:
            self.resumed = self._check(config, may_change)
            return
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _hold(self.folder)
        self.resumed = self._check(config, may_change)
        write_json(self.folder / "config.json", config)
        if not self.resumed:
            write_json(self.folder / "env.json", environment())

    def _check(self, config: Mapping[str, Any], may_change: tuple[str, ...]) -> bool:
        path = self.folder / "config.json"
        if not path.exists():
            return False
        before = read_json(path)
        keys = sorted(set(before) | set(config))
        other = [
            k for k in keys if k not in may_change and before.get(k) != config.get(k)
        ]
        if other:
            k = other[0]
            raise UserError(
                "a run folder holds one run; "
                f"{self.folder} has {k} = {before.get(k)!r}, now {config.get(k)!r}; "
                "choose another --out or remove the folder"
            )
        return True

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`: step, seconds since start, metrics."""
        if not self.writes:
            return
        line = {"step": int(step), "seconds": round(time.monotonic() - self.started, 3)}
        line.update({k: _plain(v) for k, v in metrics.items()})
        path = self.folder / "metrics.jsonl"
        with disk_errors(self.folder):
            with path.open("a") as file:
                file.write(json.dumps(line, default=_plain) + "\n")
            self.trackers.log(step, line)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`; its presence says that the run is complete."""
        if self.writes:
            write_json(self.folder / "result.json", dict(result))

    @property
    def finished(self) -> bool:
        """Whether `result.json` is there."""
        return (self.folder / "result.json").exists()


# Locks of this process by inode; the system lets go of them however it ends.
_held: dict[int, IO[str]] = {}


def _hold(folder: Path) -> None:
    """Keeps other processes from opening a run folder until this one ends."""
    file = (folder / ".lock").open("w")
    inode = os.fstat(file.fileno()).st_ino
    if inode in _held:
        file.close()
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(
            f"a run folder is written by one process at a time; {folder} is in use; "
            "wait until the other command ends, stop it, or choose another --out"
        ) from error
    except OSError:
        # A file system without locks cannot tell; a run there is still a run.
        file.close()
        return
    _held[inode] = file


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"a file is needed; {path} does not exist; check it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"a JSON file must be whole; {path} is not ({error}); remove or remake it"
        ) from error


def command_line() -> str:
    """Returns the command being run, as one would type it."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _plain(value: Any) -> Any:
    """Turns arrays, paths and numpy scalars into what JSON can hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value
