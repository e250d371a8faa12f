"""Learned policies as files: what acts without noise, and nothing that learns.

One `.npz` holds the weights of encoder and actor under the names of their places in the
tree, and what the policy was learned for. Policies learned from a rewarder are also its
best critics: `soler1 synth --policies` makes training data of what they do.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.run import write_bytes
from soler1_jax.rl import networks
from soler1_jax.rl.types import Observation

_ABOUT = "about"
_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class Policy(NamedTuple):
    """A policy on the host.

    Attributes:
      task: name of the task it was learned for.
      activation: of the actor's hidden layers, "relu" or "tanh".
      image_size: side of its pictures in pixels.
      params: "encoder" and "actor", see networks.py; numpy arrays.
    """

    task: str
    activation: str
    image_size: int
    params: networks.Params


def act(params: networks.Params, seen: Observation, activation: str) -> jax.Array:
    """The noise-free action, float32 [N, A] in [-1, 1]; traceable."""
    features = networks.encode(params["encoder"], seen)
    hidden = _ACTIVATIONS[activation]
    return jnp.tanh(networks.mlp(params["actor"], features, hidden))


def save(path: Path, policy: Policy) -> None:
    """Writes a policy, whole or not at all.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    leaves = jax.tree_util.tree_leaves_with_path(policy.params)
    arrays = {
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in place): leaf
        for place, leaf in leaves
    }
    about = {k: v for k, v in policy._asdict().items() if k != "params"}
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, **arrays, **{_ABOUT: text})
    write_bytes(path, file.getvalue())


def load(path: Path) -> Policy:
    """Reads a policy.

    Raises:
      UserError: there is no such file, or it is no whole policy.
    """
    try:
        with np.load(path) as file:
            about = json.loads(bytes(file[_ABOUT]))
            names = [name for name in file.files if name != _ABOUT]
            tree: dict[str, Any] = {}
            for name in names:
                _put(tree, name.split("/"), file[name])
        policy = Policy(**about, params=_lists(tree))
        _ACTIVATIONS[policy.activation], policy.params["actor"][0]["weight"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
    ) as e:
        raise UserError(
            f"a policy is a file that `soler1 rl` wrote under policies/; {path} is not "
            f"({e}); name another"
        ) from e
    return policy


def find(folders: tuple[Path, ...]) -> list[Path]:
    """All policies in some folders, in order.

    Raises:
      UserError: a folder holds none.
    """
    found = []
    for folder in folders:
        here = sorted(Path(folder).glob("*.npz"))
        if not here:
            raise UserError(
                f"policies are .npz files that `soler1 rl` wrote under policies/; "
                f"{folder} holds none; name another folder"
            )
        found += here
    return found


def _put(tree: dict[str, Any], place: list[str], leaf: np.ndarray) -> None:
    for key in place[:-1]:
        tree = tree.setdefault(key, {})
    tree[place[-1]] = leaf


def _lists(tree: Any) -> Any:
    """Turns dictionaries with the keys 0, 1, ... back into lists."""
    if not isinstance(tree, dict):
        return tree
    values = {key: _lists(value) for key, value in tree.items()}
    if all(key.isdigit() for key in values):
        return [values[str(i)] for i in range(len(values))]
    return values
