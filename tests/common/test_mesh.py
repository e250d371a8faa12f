"""Logical axes to mesh axes."""

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from soler1_jax.common import mesh
from soler1_jax.common.errors import UserError

POD = AbstractMesh((2, 4, 2), mesh.AXES)


def test_axes_follow_the_table_once_each():
    spec = mesh.partition_spec(("embed", "mlp"), (64, 128), POD)
    assert spec == PartitionSpec("fsdp", "tensor")
    # fsdp is already taken by the batch.
    spec = mesh.partition_spec(("batch", "embed"), (16, 64), POD)
    assert spec == PartitionSpec(("data", "fsdp"), None)


def test_what_does_not_divide_is_replicated():
    assert mesh.partition_spec(("embed",), (63,), POD) == PartitionSpec(None)
    assert mesh.partition_spec((None, "layers"), (4, 4), POD) == PartitionSpec(
        None, None
    )


def test_a_mesh_must_use_every_device():
    assert mesh.make_mesh().size == jax.device_count()
    with pytest.raises(UserError, match="product is the device count"):
        mesh.make_mesh((3, 5, 7))
