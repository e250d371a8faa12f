"""Triangle meshes, convex and not, against MuJoCo's own rays; and what is skipped."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from soler1_jax.kernels.raycast import api, triangles

IMPLEMENTATIONS = ["xla", "interpret", "reference"]
cast = jax.jit(api.cast, static_argnames=("geom_types", "implementation"))
occluded = jax.jit(api.occluded, static_argnames=("geom_types", "implementation"))


def mujoco_rays(scene, points, rays):
    """Return distance and geom id of rays from points, both [R, 3]."""
    distance, ids = np.empty(len(points)), np.empty(len(points), int)
    found = np.zeros(1, np.int32)
    for i, (point, ray) in enumerate(zip(points, rays, strict=True)):
        distance[i] = mujoco.mj_ray(
            scene.model, scene.data, point, ray, None, 1, -1, found
        )
        ids[i] = found[0]
    return distance, ids


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_depth_geom_and_shadow_agree_with_mujoco(meshes, seed, implementation):
    world = meshes(seed)
    light = jnp.asarray(world.light, jnp.float32)
    common = (world.types, world.geoms, world.rays)
    hits = cast(*common, light, implementation=implementation)
    rays = np.asarray(world.rays.directions(), float).T
    origins = np.tile(np.asarray(world.rays.origin, float), (len(rays), 1))
    distance, ids = mujoco_rays(world, origins, rays)
    geom = np.asarray(hits.geom)
    assert np.mean(geom == ids) > 0.995
    met = (geom == ids) & (ids >= 0)
    assert set(np.unique(ids[met])) == set(range(6))
    np.testing.assert_allclose(np.asarray(hits.distance)[met], distance[met], rtol=1e-4)
    dark = np.asarray(occluded(*common, hits, light, implementation=implementation))
    toward = np.tile(world.light, (len(rays), 1))
    points = origins + np.asarray(hits.distance)[:, None] * rays + 1e-4 * toward
    beyond, other = mujoco_rays(world, points, toward)
    expected = (beyond >= 0) & (other > 0)
    # a mesh does not shade itself
    decided = (geom >= 0) & (np.asarray(hits.cosine) > 0.05) & (other != geom)
    assert 0.01 < expected[decided].mean() < 0.9
    assert np.mean(dark[decided] == expected[decided]) > 0.99


def test_cosines_are_those_of_the_plain_normals(meshes):
    world = meshes(1)
    light = jnp.asarray(world.light, jnp.float32)
    found = {
        name: cast(world.types, world.geoms, world.rays, light, implementation=name)
        for name in IMPLEMENTATIONS
    }
    plain = found.pop("reference")
    for name, hits in found.items():
        same = np.asarray((hits.geom == plain.geom) & (plain.geom >= 2))
        assert same.sum() > 30
        # two faces of an edge may be met in either order
        close = np.abs(np.asarray(hits.cosine - plain.cosine))[same] < 5e-3
        assert close.mean() > 0.95, name


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_rays_do_not_slip_through_edges(implementation):
    # rays at the corners and along the edges of a fan of thin triangles
    angles = np.linspace(0, 2 * np.pi, 65)[:-1]
    rim = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1) * 0.3
    fan = np.stack([np.zeros_like(rim), rim, np.roll(rim, -1, axis=0)], axis=1)
    shares = np.linspace(0, 0.999, 16)
    points = (rim[:, None] * shares[:, None]).reshape(-1, 3)
    hits = api.cast(
        (7,),
        api.Geoms(
            jnp.zeros((1, 3)),
            jnp.eye(3)[None],
            jnp.zeros((1, 3)),
            jnp.ones((1, 4)),
            jnp.ones(1, bool),
            (jnp.asarray(fan, jnp.float32),),
        ),
        api.Rays(
            jnp.array([0.0, 0.0, 2.0]),
            jnp.diag(jnp.array([1.0, 1.0, -1.0])),
            jnp.asarray(points[:, 0] / 2, jnp.float32),
            jnp.asarray(points[:, 1] / 2, jnp.float32),
        ),
        jnp.array([0.0, 0.6, 0.8]),
        implementation=implementation,
    )
    np.testing.assert_array_equal(hits.geom, 0)
    np.testing.assert_allclose(hits.distance, 2.0, rtol=1e-4)
    np.testing.assert_allclose(hits.cosine, 0.8, atol=3e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_hidden_mesh_is_not_met_and_shades_nothing(meshes, implementation):
    world = meshes(2)
    light = jnp.asarray(world.light, jnp.float32)
    geoms = world.geoms._replace(visible=jnp.arange(6) == 0)
    common = (world.types, geoms, world.rays)
    hits = cast(*common, light, implementation=implementation)
    assert set(np.unique(hits.geom)) <= {-1, 0}
    dark = occluded(*common, hits, light, implementation=implementation)
    assert not np.asarray(dark)[np.asarray(hits.geom) == 0].any()


# jax 0.10.2 cannot interpret a batched call with a mapped scalar operand; that such calls
# compile is tested in test_tpu.py.
@pytest.mark.parametrize(
    ("implementation", "batched"),
    [("xla", False), ("xla", True), ("interpret", False)],
)
def test_a_mesh_whose_ball_no_ray_meets_is_skipped(
    meshes, monkeypatch, implementation, batched
):
    # balls that lie elsewhere: what is skipped for their sake is not seen
    monkeypatch.setattr(
        triangles,
        "ball",
        lambda corners: triangles.Ball(jnp.full(3, 1e3), jnp.float32(0.1)),
    )
    world = meshes(0, side=16)
    light = jnp.asarray(world.light, jnp.float32)

    def look(geoms):
        hits = api.cast(
            world.types, geoms, world.rays, light, implementation=implementation
        )
        return hits.geom, api.occluded(
            world.types, geoms, world.rays, hits, light, implementation=implementation
        )

    geoms, call = world.geoms, look
    if batched:
        geoms, call = jax.tree.map(lambda x: jnp.stack([x, x]), geoms), jax.vmap(look)
    seen, dark = jax.jit(call)(geoms)
    assert set(np.unique(seen)) - {-1} == {0, 1}
    assert not np.asarray(dark)[np.asarray(seen) == 1].any()


def test_meshes_that_do_not_fit_are_refused(meshes):
    world = meshes(0)
    light = jnp.asarray(world.light, jnp.float32)
    for corners, message in (
        ((), "triangles for each geom of type MESH; got 0 for 4"),
        (
            (jnp.zeros((3, 3)),) * 4,
            r"must be triangles \[F, 3, 3\].* got shape \[3, 3\]",
        ),
        ((jnp.zeros((0, 3, 3)),) * 4, r"at least one; got shape \[0, 3, 3\]"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            api.cast(
                world.types, world.geoms._replace(meshes=corners), world.rays, light
            )
        assert "\n" not in str(caught.value)
