"""The kernels for TPUs that are not here: exported, and compiled by libtpu."""

import re

import jax
import jax.numpy as jnp
import pytest
import tpu_aot
from jax.sharding import PartitionSpec
from soler1_jax.kernels.raycast import api

# floor, all primitives, some often, and two meshes: about what a task scene holds
TYPES = (0, 2, 3, 4, 5, *(6,) * 24, 2, 2, 3, 7, 7)
FACES = (12, 80)
WORLDS = (1, 64)
SIDES = (32, 64, 128)


def look(geoms, rays, light):
    """Cast one world's rays and their shadows."""
    hits = api.cast(TYPES, geoms, rays, light, implementation="pallas_tpu")
    dark = api.occluded(TYPES, geoms, rays, hits, light, implementation="pallas_tpu")
    return hits, dark


def arguments(worlds: int, side: int):
    """Return shapes of geoms, rays and light with a leading axis of worlds."""

    def of(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((worlds, *shape), dtype)

    count = len(TYPES)
    geoms = api.Geoms(
        of(count, 3),
        of(count, 3, 3),
        of(count, 3),
        of(count, 4),
        of(count, dtype=jnp.bool_),
        tuple(of(faces, 3, 3) for faces in FACES),
    )
    return geoms, api.Rays(of(3), of(3, 3), of(side**2), of(side**2)), of(3)


def test_exports_to_tpu():
    exported = jax.export.export(jax.jit(jax.vmap(look)), platforms=["tpu"])
    assert exported(*arguments(4, 32)).mlir_module().count("@tpu_custom_call") == 2


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("worlds", WORLDS)
def test_compiles_with_little_beside_rays_and_hits(worlds, side, generation):
    compiled = tpu_aot.compile_for(generation, jax.vmap(look), *arguments(worlds, side))
    assert compiled.executable.as_text().count('"tpu_custom_call"') == 2
    # Five values a ray in float32, twice. Small matrices of geoms and triangles are
    # padded to tiles, in every world anew.
    rays, tables = 2 * 20 * worlds * side**2, (8 << 20) + worlds * (96 << 10)
    assert compiled.memory.temp_size_in_bytes < rays + tables


@pytest.mark.aot
@pytest.mark.parametrize("generation", tpu_aot.TOPOLOGIES)
def test_worlds_spread_over_a_mesh_without_talking(generation):
    mesh = tpu_aot.mesh(generation, (4,), ("data",))
    spec = PartitionSpec("data")
    spread = jax.shard_map(
        jax.vmap(look),
        mesh=mesh,
        in_specs=(spec,) * 3,
        out_specs=spec,
        check_vma=False,
    )
    compiled = tpu_aot.compile_for(
        generation, spread, *arguments(64, 64), mesh=mesh, specs=(spec,) * 3
    )
    text = compiled.executable.as_text()
    assert text.count('"tpu_custom_call"') == 2
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", text)
