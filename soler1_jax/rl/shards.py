"""One policy's worlds, spread over several devices that learn as one.

Each device collects its part of the worlds, keeps its part of the replay and holds the
same networks; gradients are averaged over the devices, so the networks stay the same.
"""

from typing import Any

import jax

from soler1_jax.common.errors import UserError

AXIS = "world"


def mean(tree: Any, shards: int) -> Any:
    """Averages equally large shares over the devices of one policy; traceable.

    Args:
      tree: arrays, each the mean over this device's share.
      shards: number of devices; with 1 the tree comes back as it is, and no axis is
        needed around the call.
    """
    return tree if shards == 1 else jax.lax.pmean(tree, AXIS)


def share(name: str, total: int, shards: int) -> int:
    """Gives the part of a number that one device has.

    Raises:
      UserError: it does not divide evenly.
    """
    if total % shards:
        raise UserError(
            f"{name} are shared evenly by a policy's {shards} devices; "
            f"got {total}; use a multiple of {shards}"
        )
    return total // shards
