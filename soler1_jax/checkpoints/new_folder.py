"""A folder that is there whole or not at all."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from soler1_jax.common.errors import UserError, disk_errors

_LOCK = ".lock"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder under another name, `.NAME.part` beside it, and renames it last.

    What a killed process left there is removed. If the body fails, nothing stays.

    Args:
      folder: must not exist, or be empty.

    Yields:
      The folder to write into.

    Raises:
      UserError: another process is making the same folder, or the disk refuses.
    """
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.part")
    with disk_errors(folder.parent):
        part.mkdir(parents=True, exist_ok=True)
        with (part / _LOCK).open("w") as lock:
            _hold(lock, folder)
            try:
                _empty(part)
                yield part
                if folder.is_dir():
                    folder.rmdir()
                part.rename(folder)
                (folder / _LOCK).unlink()
            finally:
                # After the renaming it is not there.
                shutil.rmtree(part, ignore_errors=True)


def _hold(lock: object, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"a folder is written by one process at a time; {folder} is being made; "
            "wait until the other command ends, or stop it"
        ) from error
    except OSError:
        # A file system without locks cannot tell.
        return


def _empty(part: Path) -> None:
    for path in part.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
