"""Checkpoints of training states: kept few, written whole, sharded like the run.

Orbax writes into a temporary folder and renames it, so a killed process leaves no
half-written step. Files that a disk damaged later are set aside with a warning, and the
step before is used.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from soler1_jax.common.errors import (
    UserError,
    disk_errors,
    native_disk_errors,
    require_positive,
    require_space,
)

Tree = TypeVar("Tree")

_STATE, _ABOUT = "state", "about"
_log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run, in a folder of numbered steps."""

    def __init__(
        self, folder: str | Path, *, keep: int = 2, background: bool = False
    ) -> None:
        """Opens or makes the folder.

        Args:
          folder: where the steps are.
          keep: how many of the newest steps stay.
          background: whether `save` returns while files are still being written; call
            `wait` before the process ends.
        """
        require_positive("--keep", keep)
        self.folder = Path(folder).absolute()
        self._background = background
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=background,
            cleanup_tmp_directories=True,
        )
        with disk_errors(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={
                    _STATE: ocp.StandardCheckpointHandler(),
                    _ABOUT: ocp.JsonCheckpointHandler(),
                },
            )

    def save(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Writes one checkpoint; a step that is there already is left alone.

        Args:
          step: number of the step.
          state: pytree of arrays; may be donated once this returns.
          extra: anything JSON can hold.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        if step in self._manager.all_steps():
            return
        about = {"extra": dict(extra), "shapes": _shapes(state)}
        items = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(state),
                _ABOUT: ocp.args.JsonSave(about),
            }
        )
        # Orbax's threads meet a full disk with a dozen tracebacks, so it is met before.
        require_space(self.folder, _bytes(state))
        with disk_errors(self.folder), native_disk_errors(self.folder):
            self._manager.save(step, args=items)
            if not self._background:
                self._manager.wait_until_finished()

    def wait(self) -> None:
        """Returns once everything is on disk."""
        with disk_errors(self.folder), native_disk_errors(self.folder):
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps in the folder, oldest first."""
        return sorted(self._manager.all_steps())

    def restore(self, like: Tree) -> tuple[Tree, dict[str, Any]] | None:
        """Reads the newest whole checkpoint, or returns None if there is none.

        Args:
          like: a state of the same structure; gives shapes, dtypes and shardings.

        Raises:
          UserError: a readable checkpoint belongs to a state of other shapes, or every
            checkpoint is damaged.
        """
        self.wait()
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        steps = self.steps()
        for step in reversed(steps):
            try:
                with disk_errors(self.folder):
                    return self._read(step, wanted)
            except (UserError, MemoryError):
                raise
            # Damage shows in as many ways as there are readers of the files.
            except Exception as error:  # noqa: BLE001
                _log.debug("step %d", step, exc_info=error)
                self._set_aside(step)
        if steps:
            raise UserError(
                f"a run continues from a whole checkpoint; all {len(steps)} in "
                f"{self.folder} are damaged; remove the folder to start anew"
            )
        return None

    def _read(self, step: int, wanted: Tree) -> tuple[Tree, dict[str, Any]]:
        about = self._load(step, _ABOUT, ocp.args.JsonRestore())
        have, want = about["shapes"], _shapes(wanted)
        if have != want:
            name = next(k for k in (*want, *have) if have.get(k) != want.get(k))
            raise UserError(
                f"a run continues with the settings it began with; {name} is "
                f"{have.get(name, 'absent')} in {self.folder} and "
                f"{want.get(name, 'absent')} now; choose another --out"
            )
        state = self._load(step, _STATE, ocp.args.StandardRestore(wanted))
        return state, about["extra"]

    def _load(self, step: int, item: str, how: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]

    def _set_aside(self, step: int) -> None:
        damaged = self.folder / str(step)
        if jax.process_index() == 0:
            number = 0
            while (aside := self.folder / f"damaged-{step}-{number}").exists():
                number += 1
            with disk_errors(self.folder):
                damaged.rename(aside)
            _log.warning(
                "checkpoint %s is damaged; set aside as %s", damaged, aside.name
            )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()


def _bytes(tree: Any) -> int:
    """Bytes that this process writes of a tree; floats hardly compress."""
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.replica_id == 0)


def _shapes(tree: Any) -> dict[str, list[int]]:
    """Name of every leaf -> its shape, as JSON holds it."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in leaves
    }
