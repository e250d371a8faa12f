"""Training checkpoints: continue exactly, survive damage, refuse another run's state."""

import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from soler1_jax.checkpoints.manager import CheckpointStore
from soler1_jax.common.errors import UserError


@struct.dataclass
class _State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState


def _state(seed: int, width: int = 6) -> _State:
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "layers": {"0": {"kernel": jax.random.normal(keys[0], (4, width))}},
        "bias": jax.random.normal(keys[1], (width,)),
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = tx.init(params)
    _, opt_state = tx.update(params, opt_state, params)
    return _State(jnp.int32(seed), params, opt_state)


def _same(a: _State, b: _State) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def _truncate(folder: Path) -> None:
    files = [p for p in folder.rglob("*") if p.is_file() and "state" in p.parts]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.mark.parametrize("background", [False, True])
def test_restores_the_newest_bit_for_bit(tmp_path: Path, background: bool) -> None:
    store = CheckpointStore(tmp_path, background=background)
    for step in (1, 2):
        store.save(step, _state(step), {"elapsed_s": step * 1.5})
    store.wait()
    state, extra = CheckpointStore(tmp_path).restore(_state(9))
    _same(state, _state(2))
    assert extra == {"elapsed_s": 3.0}


def test_keeps_only_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(5):
        store.save(step, _state(step), {})
    assert store.steps() == [3, 4]


def test_a_full_disk_is_one_line_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, _state(1), {})
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="free disk space"):
        store.save(2, _state(2), {})
    monkeypatch.undo()
    _same(CheckpointStore(tmp_path).restore(_state(9))[0], _state(1))


def test_a_disk_that_fills_up_while_orbax_writes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")

    monkeypatch.setattr(store._manager, "save", full)
    with pytest.raises(UserError, match="free disk space"):
        store.save(1, _state(1), {})

    def exhausted(*args: object, **kwargs: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    monkeypatch.setattr(store._manager, "save", exhausted)
    with pytest.raises(RuntimeError, match="Out of memory"):
        store.save(1, _state(1), {})


def test_empty_folder_restores_nothing(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "new").restore(_state(0)) is None


def test_restores_with_the_shardings_asked_for(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1, _state(1), {})
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    like = _state(0)
    like.params["bias"] = jax.device_put(like.params["bias"], sharding)
    state, _ = CheckpointStore(tmp_path).restore(like)
    assert state.params["bias"].sharding == sharding


def test_damaged_newest_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 2):
        store.save(step, _state(step), {"at": step})
    _truncate(tmp_path / "2")
    store = CheckpointStore(tmp_path, keep=3)
    with caplog.at_level(logging.WARNING, logger="soler1_jax"):
        state, extra = store.restore(_state(9))
    _same(state, _state(1))
    assert extra == {"at": 1}
    assert "damaged-2-0" in caplog.text
    # The run goes on and may write the same step again.
    store.save(2, _state(7), {"at": 2})
    _same(CheckpointStore(tmp_path).restore(_state(9))[0], _state(7))


def test_missing_files_of_the_newest_are_damage_too(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(step, _state(step), {})
    for path in (tmp_path / "2" / "about").rglob("*"):
        path.unlink()
    _same(CheckpointStore(tmp_path).restore(_state(9))[0], _state(1))


def test_all_damaged_is_one_line_for_the_user(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1, _state(1), {})
    _truncate(tmp_path / "1")
    with pytest.raises(UserError, match="damaged; remove the folder") as error:
        CheckpointStore(tmp_path).restore(_state(9))
    assert "\n" not in str(error.value)


def test_another_shape_is_refused_not_skipped(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, _state(1), {})
    with pytest.raises(UserError, match=r"settings.*bias.*\[6\].*\[5\]"):
        store.restore(_state(1, width=5))
    assert store.steps() == [1]
