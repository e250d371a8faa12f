"""Snapshots come back bit for bit, and damaged or foreign ones are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.rl import snapshot


def state() -> dict:
    return {"key": jax.random.key(3), "x": jnp.arange(5), "y": jnp.ones((2, 3))}


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "a" / "s.npz"
    assert snapshot.restore(path, state()) is None
    snapshot.save(path, state(), {"iteration": 7})
    like = jax.tree.map(jnp.zeros_like, {k: state()[k] for k in ("x", "y")})
    found, extra = snapshot.restore(path, {**like, "key": jax.random.key(0)})
    assert extra == {"iteration": 7}
    np.testing.assert_array_equal(found["x"], np.arange(5))
    assert jax.random.key_data(found["key"]).tolist() == [0, 3]
    assert [p.name for p in path.parent.iterdir()] == ["s.npz"]


def test_a_cut_or_foreign_snapshot_is_refused(tmp_path):
    path = tmp_path / "s.npz"
    snapshot.save(path, state(), {})
    with pytest.raises(UserError, match="same settings"):
        snapshot.restore(path, {**state(), "y": jnp.ones((2, 4))})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="must be whole"):
        snapshot.restore(path, state())
