"""Errors that a user can act on.

A message states the rule, what was received, and the fix, on one line. The command
line prints it without a traceback and exits with status 2.
"""

import contextlib
import difflib
import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user asked for, or a fault of the machine, in one line."""


class Terminated(Exception):
    """The process was told to end (SIGTERM), and what it had is saved."""


def nearest_hint(name: str, choices: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest choices, or a list of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(choices[:8])
    more = f", … ({len(choices)} in all)" if len(choices) > 8 else ""
    return f"; choose one of {shown}{more}"


def require_positive(name: str, value: float) -> None:
    """Raises UserError unless `value` is greater than zero."""
    if not value > 0:
        raise UserError(f"{name} must be positive; got {value}; give 1 or more")


def require_non_negative(name: str, value: float) -> None:
    """Raises UserError if `value` is below zero."""
    if value < 0:
        raise UserError(f"{name} must not be negative; got {value}; give 0 or more")


# How native writers, which know no errno, say that a disk is full.
# RESOURCE_EXHAUSTED alone is not among them: a device out of memory says it too.
_FULL_WORDS = ("No space", "ENOSPC", "File too large")


def disk_full(path: Path | str) -> UserError:
    """The error for a full disk."""
    return UserError(
        f"writing needs free disk space; the disk of {path} is full; "
        "free some space and run the same command again"
    )


def require_space(path: Path, size: int) -> None:
    """Raises UserError unless `size` bytes are free on the disk of a folder."""
    if shutil.disk_usage(path).free < size:
        raise disk_full(path)


@contextlib.contextmanager
def native_disk_errors(path: Path | str) -> Iterator[None]:
    """Turns a native writer's complaint about a full disk into a UserError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if any(word in str(error) for word in _FULL_WORDS):
            raise disk_full(path) from error
        raise


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns the operating system's refusal to write under `path` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"the output folder must be writable; {path} is not; "
                "choose another with --out"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"the output must be a folder; {path} runs into a file; "
                "choose another with --out"
            ) from error
        raise
