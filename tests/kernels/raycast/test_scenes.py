"""Whole scenes: MuJoCo's own ray casting, the implementations, and what is hidden."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from soler1_jax.kernels.raycast import api
from soler1_jax.kernels.raycast.shapes import GeomType

IMPLEMENTATIONS = ["xla", "interpret", "reference"]
cast = jax.jit(api.cast, static_argnames=("geom_types", "implementation"))
occluded = jax.jit(api.occluded, static_argnames=("geom_types", "implementation"))


def mujoco_cast(scene, points, directions):
    """Return distance and geom id of MuJoCo's own rays, points and directions [R, 3]."""
    distance, ids = np.empty(len(points)), np.empty(len(points), int)
    found = np.zeros(1, np.int32)
    for i, (point, ray) in enumerate(zip(points, directions, strict=True)):
        arguments = (scene.model, scene.data, point, ray, None, 1, -1, found)
        distance[i] = mujoco.mj_ray(*arguments)
        ids[i] = found[0]
    return distance, ids


def away_from_edges(ids: np.ndarray, side: int) -> np.ndarray:
    """Return pixels whose eight neighbours show the same geom."""
    picture = ids.reshape(side, side)
    padded = np.pad(picture, 1, mode="edge")
    same = np.ones_like(picture, bool)
    for row in range(3):
        for column in range(3):
            same &= padded[row : row + side, column : column + side] == picture
    return same.ravel()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_depth_and_geom_agree_with_mujoco(scene, seed, implementation):
    side = 24
    world = scene(seed, side=side)
    hits = cast(
        world.types,
        world.geoms,
        world.rays,
        jnp.asarray(world.light, jnp.float32),
        implementation=implementation,
    )
    rays = np.asarray(world.rays.directions(), float).T
    origins = np.tile(np.asarray(world.rays.origin, float), (len(rays), 1))
    distance, ids = mujoco_cast(world, origins, rays)
    geom = np.asarray(hits.geom)
    assert np.mean(geom == ids) > 0.995
    inner = away_from_edges(ids, side)
    np.testing.assert_array_equal(geom[inner], ids[inner])
    met = (geom == ids) & (ids >= 0)
    assert len(np.unique(ids[met])) > 8
    np.testing.assert_allclose(np.asarray(hits.distance)[met], distance[met], rtol=2e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_shadows_agree_with_mujoco(scene, seed, implementation):
    world = scene(seed + 50)
    light = jnp.asarray(world.light, jnp.float32)
    hits = cast(world.types, world.geoms, world.rays, light, implementation="reference")
    dark = np.asarray(
        occluded(
            world.types,
            world.geoms,
            world.rays,
            hits,
            light,
            implementation=implementation,
        )
    )
    rays = np.asarray(world.rays.directions(), float).T
    points = np.asarray(world.rays.origin) + np.asarray(hits.distance)[:, None] * rays
    toward = np.tile(world.light, (len(points), 1))
    # start a little above the surface, so that the point's own geom is not met
    distance, ids = mujoco_cast(world, points + 1e-4 * toward, toward)
    lit_side = (np.asarray(hits.geom) >= 0) & (np.asarray(hits.cosine) > 0.05)
    expected = (distance >= 0) & (ids != np.asarray(hits.geom)) & (ids != 0)
    assert 0.01 < expected[lit_side].mean() < 0.9
    assert np.mean(dark[lit_side] == expected[lit_side]) > 0.99


@pytest.mark.parametrize("name", ["xla", "interpret"])
@pytest.mark.parametrize(("count", "only"), [(15, None), (40, GeomType.SPHERE)])
def test_implementations_agree(scene, count, only, name):
    world = scene(7, count=count, only=only)
    light = jnp.asarray(world.light, jnp.float32)
    common = (world.types, world.geoms, world.rays)
    fast = cast(*common, light, implementation=name)
    plain = cast(*common, light, implementation="reference")
    same = np.asarray(fast.geom == plain.geom)
    assert same.mean() > 0.998
    # the kernel's precision is float32's, packed keys have fewer bits
    distance, cosine = (2e-4, 8e-3) if name == "xla" else (3e-5, 2e-3)
    np.testing.assert_allclose(fast.distance[same], plain.distance[same], rtol=distance)
    np.testing.assert_allclose(fast.cosine[same], plain.cosine[same], atol=cosine)
    shade = [
        np.asarray(occluded(*common, plain, light, implementation=each))
        for each in (name, "reference")
    ]
    lit = np.asarray(plain.cosine) > 0.02
    assert np.mean(shade[0][lit] == shade[1][lit]) > 0.998


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["primitives", "meshes"])
def test_normals_are_those_of_mujoco(scene, meshes, kind, implementation):
    side = 40
    world = (scene if kind == "primitives" else meshes)(3, side=side)
    common = (world.types, world.geoms, world.rays)
    light = jnp.asarray(world.light, jnp.float32)
    hits = cast(*common, light, implementation=implementation)
    found = np.asarray(jax.jit(api.normals, static_argnums=0)(*common, hits)).T
    geom = np.asarray(hits.geom)
    assert not found[geom < 0].any()
    normal, which = np.zeros(3), np.zeros(1, np.int32)
    origin, agree = np.asarray(world.rays.origin, float), {}
    for index, ray in enumerate(np.asarray(world.rays.directions(), float).T):
        arguments = (world.model, world.data, origin, ray, None, 1, -1, which, normal)
        if mujoco.mj_ray(*arguments) < 0 or which[0] != geom[index]:
            continue
        close = np.linalg.norm(found[index] - normal) < 2e-2
        agree.setdefault(world.types[geom[index]], []).append(close)
    assert set(agree) == set(world.types)
    # where two faces meet, either may be named
    assert min(np.mean(close) for close in agree.values()) > 0.97, {
        kind: np.mean(close) for kind, close in agree.items()
    }


def test_cosine_is_that_of_the_normal(scene):
    world = scene(3)
    common = (world.types, world.geoms, world.rays)
    light = jnp.asarray(world.light, jnp.float32)
    hits = cast(*common, light, implementation="reference")
    normals = np.asarray(api.normals(*common, hits))
    cosine = np.clip(world.light @ normals, 0, 1)
    np.testing.assert_allclose(cosine, hits.cosine, atol=2e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("how", ["visible", "size"])
def test_what_is_hidden_is_not_met_and_shades_nothing(scene, how, implementation):
    world = scene(11)
    light = jnp.asarray(world.light, jnp.float32)
    floor_only = jnp.arange(len(world.types)) == 0
    if how == "visible":
        geoms = world.geoms._replace(visible=floor_only)
    else:
        geoms = world.geoms._replace(size=world.geoms.size.at[1:].set(0.0))
    hits = cast(world.types, geoms, world.rays, light, implementation=implementation)
    assert set(np.unique(hits.geom)) <= {-1, 0}
    met = np.asarray(hits.geom) == 0
    dark = occluded(
        world.types, geoms, world.rays, hits, light, implementation=implementation
    )
    assert not np.asarray(dark)[met].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_from_inside_a_geom_it_is_not_seen(scene, implementation):
    world = scene(13)
    light = jnp.asarray(world.light, jnp.float32)
    for index in range(1, 6):
        rays = world.rays._replace(origin=world.geoms.position[index])
        hits = cast(
            world.types, world.geoms, rays, light, implementation=implementation
        )
        assert index not in np.unique(hits.geom)
        assert (np.asarray(hits.geom) >= 0).any()


def test_worlds_in_a_batch_do_not_mix(scene):
    worlds = [scene(seed) for seed in (1, 2, 3)]
    types, light = worlds[0].types, jnp.asarray(worlds[0].light, jnp.float32)

    def stack(*x):
        return jnp.stack(x)

    geoms = jax.tree.map(stack, *(world.geoms for world in worlds))
    rays = jax.tree.map(stack, *(world.rays for world in worlds))
    together = jax.vmap(lambda g, r: cast(types, g, r, light))(geoms, rays)
    for index, world in enumerate(worlds):
        alone = cast(types, world.geoms, world.rays, light)
        np.testing.assert_array_equal(together.geom[index], alone.geom)
        np.testing.assert_allclose(together.distance[index], alone.distance, rtol=1e-4)


def test_what_cannot_be_cast_is_refused(scene):
    world = scene(1)
    light = jnp.asarray(world.light, jnp.float32)
    with pytest.raises(ValueError, match="geom 1 has type 1"):
        api.cast((0, 1), world.geoms, world.rays, light)
    with pytest.raises(ValueError, match="implementation"):
        api.cast(world.types, world.geoms, world.rays, light, implementation="fast")
