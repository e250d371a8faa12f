"""Batches reach the devices in order, and every one exactly once."""

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.mesh import make_mesh
from soler1_jax.training import feed


def test_batches_come_in_order_from_any_step():
    def read(step):
        return {"x": np.full((2, 3), step)}

    seen = [int(b["x"][0, 0]) for b in feed.batches(read, 5, 9, make_mesh())]
    assert seen == [5, 6, 7, 8]
    assert not list(feed.batches(read, 9, 9, make_mesh()))


def test_a_failure_to_read_reaches_the_caller():
    def read(step):
        if step == 1:
            raise UserError("the shard is gone")
        return {"x": np.zeros(1)}

    feeding = feed.batches(read, 0, 3, make_mesh())
    next(feeding)
    with pytest.raises(UserError, match="shard is gone"):
        list(feeding)


@pytest.mark.parametrize("size", [0, -4])
def test_impossible_batch_sizes_are_refused(size):
    with pytest.raises(UserError, match="--episodes"):
        feed.check_divides(size, make_mesh(), "--episodes")
