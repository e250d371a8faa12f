"""Saves the whole state of learning, replay included, so that a killed run continues.

One uncompressed `.npz` holds all leaves in tree order. It is written beside and then
renamed over the last one, so there is always one whole snapshot or none.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from soler1_jax.common.errors import UserError, disk_errors

_EXTRA = "extra"


def save(path: Path, state: Any, extra: Mapping[str, Any]) -> None:
    """Replaces the snapshot at `path`.

    Args:
      state: pytree of arrays; random keys are allowed.
      extra: anything JSON can hold.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(state)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                arrays = {f"leaf{i:05d}": leaf for i, leaf in enumerate(leaves)}
                text = np.frombuffer(json.dumps(dict(extra)).encode(), np.uint8)
                np.savez(file, **arrays, **{_EXTRA: text})
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def restore(path: Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """Reads the snapshot at `path`, or returns None if there is none.

    Args:
      like: a state of the same structure; gives shapes, key types and shardings.

    Raises:
      UserError: the file is damaged or belongs to other settings.
    """
    if not path.exists():
        return None
    targets, structure = jax.tree.flatten(like)
    try:
        with np.load(path) as file:
            extra = json.loads(bytes(file[_EXTRA]))
            arrays = [file[f"leaf{i:05d}"] for i in range(len(targets))]
            whole = len(file.files) == len(targets) + 1
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"a snapshot must be whole; {path} is not ({error}); "
            "remove it to start this run again"
        ) from error
    fits = all(a.shape == _shape(t) for a, t in zip(arrays, targets, strict=True))
    if not (whole and fits):
        raise UserError(
            f"a snapshot must come from the same settings; {path} does not; "
            "choose another --out"
        )
    pairs = zip(arrays, targets, strict=True)
    return structure.unflatten([_placed(a, t) for a, t in pairs]), extra


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _shape(leaf: jax.Array) -> tuple[int, ...]:
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf).shape
    return leaf.shape


def _placed(array: np.ndarray, target: jax.Array) -> jax.Array:
    if _is_key(target):
        key = jax.random.wrap_key_data(array, impl=jax.random.key_impl(target))
        return jax.device_put(key, target.sharding)
    return jax.device_put(array.astype(target.dtype), target.sharding)
