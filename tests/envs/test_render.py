"""Pictures against MuJoCo's own offscreen renderer, and the renderer's own promises.

MuJoCo's pictures need OSMesa (Debian's libosmesa6); the tests that compare skip without.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx
from soler1_jax.kernels.raycast import api as raycast

from soler1_jax.common.errors import UserError
from soler1_jax.envs import model, mujoco_bridge, render, tasks
from soler1_jax.envs.tabletop import Tabletop, TabletopConfig

SIZE = 128
WORLDS = 6
XML = """
<mujoco>
  <statistic extent="1" center="0 0 .2"/>
  <visual>
    <headlight ambient=".3 .3 .3" diffuse="0 0 0" specular="0 0 0"/>
    <map znear=".01" zfar="20"/>
    <quality shadowsize="4096" offsamples="0" numslices="128" numstacks="128"/>
  </visual>
  <asset>
    <material name="matt" specular="0" shininess="0"/>
    <mesh name="wedge" vertex="0 0 0  .2 0 0  0 .1 0  .2 .1 0  0 0 .12  0 .1 .12"/>
  </asset>
  <worldbody>
    <light type="directional" pos="0 0 1.5" dir="-.3 .2 -1" diffuse=".6 .6 .6"
      specular="0 0 0"/>
    <camera name="eye" pos=".8 -.8 .8" xyaxes="1 1 0 -1 1 2" fovy="45"/>
    <geom type="plane" size="2 2 .1" rgba=".4 .5 .4 1" material="matt"/>
    {geoms}
    <geom type="mesh" mesh="wedge" pos=".1 -.1 .5" quat=".8 .3 -.4 .3"
      rgba=".2 .7 .8 1" material="matt"/>
    <body pos="0 .2 .45">
      <joint type="slide"/>
      <geom type="sphere" size=".05" rgba=".9 .9 .2 1" material="matt"/>
    </body>
  </worldbody>
</mujoco>
"""
KINDS = ("sphere", "capsule", "ellipsoid", "cylinder", "box")


def random_xml(seed: int) -> str:
    rng = np.random.default_rng(seed)

    def text(values: np.ndarray) -> str:
        return " ".join(f"{value:.4f}" for value in values)

    geoms = [
        f'<geom type="{KINDS[i % 5]}" size="{text(rng.uniform(0.04, 0.1, 3))}"'
        f' pos="{text(np.r_[rng.uniform(-0.3, 0.3, 2), rng.uniform(0.1, 0.3)])}"'
        f' quat="{text(rng.normal(size=4))}" material="matt"'
        f' rgba="{text(rng.uniform(0.1, 1, 3))} 1"/>'
        for i in range(10)
    ]
    return XML.format(geoms="\n".join(geoms))


def ask_mujoco(
    folder: Path,
    hosts: list[mujoco.MjModel],
    qpos: list[np.ndarray],
    views: tuple[str, ...],
) -> dict[str, np.ndarray]:
    for index, host in enumerate(hosts):
        mujoco.mj_saveModel(host, str(folder / f"{index}.mjb"), None)
    request = {"qpos": np.stack(qpos), "size": SIZE, "views": np.array(views)}
    np.savez(folder / "request.npz", **request)
    script = Path(__file__).with_name("draw_with_mujoco.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"MuJoCo cannot draw here (is libosmesa6 installed?): {reason}")
    return dict(np.load(folder / "answer.npz"))


def inner(ids: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours show the same geom: away from silhouettes."""
    padded = np.pad(ids, 1, mode="edge")
    height, width = ids.shape
    same = np.ones_like(ids, bool)
    for row in range(3):
        for column in range(3):
            same &= padded[row : row + height, column : column + width] == ids
    return same


def compare(ours: render.RenderedImage, rgb, depth, ids) -> tuple[float, float, float]:
    """Return worst IoU of a geom, worst depth error and median colour error, 0..255.

    The median, because MuJoCo's shadow maps leave a scatter of dark pixels on the floor.
    """
    mine, seen = np.asarray(ours.segmentation), inner(ids)
    seen &= inner(mine) | (mine != ids)
    union = {
        int(geom): ((mine == geom) | (ids == geom))[seen].sum()
        for geom in np.unique(ids[seen])
    }
    overlap = {geom: ((mine == geom) & (ids == geom))[seen].sum() for geom in union}
    worst = min(overlap[g] / union[g] for g in union if union[g] >= 20)
    same = seen & (mine == ids) & (ids >= 0)
    error = np.abs(np.asarray(ours.depth) / depth - 1)[same].max()
    colour = np.abs(np.asarray(ours.rgb, float) - rgb)[same]
    return float(worst), float(error), float(np.median(colour))


@pytest.mark.parametrize(
    ("seed", "implementation"),
    [(0, None), (1, None), (2, None), (0, "interpret")],
)
def test_geoms_look_as_in_mujoco(seed, implementation, tmp_path):
    host = mujoco.MjModel.from_xml_string(random_xml(seed))
    theirs = ask_mujoco(tmp_path, [host], [np.zeros(1)], ("eye",))
    physics = mjx.put_model(host)
    data = mjx.kinematics(physics, mjx.make_data(physics))
    state = mujoco.MjData(host)
    mujoco.mj_forward(host, state)
    camera = render.Camera(
        jnp.asarray(state.cam_xpos[0], jnp.float32),
        jnp.asarray(state.cam_xmat[0].reshape(3, 3), jnp.float32),
        45.0,
    )
    light = render.Light(
        jnp.array([-0.3, 0.2, -1.0]), jnp.full(3, 0.3), jnp.full(3, 0.6)
    )
    ours = render.render(
        render.types_of(physics),
        render.geoms_of(physics, data),
        camera,
        light,
        height=SIZE,
        width=SIZE,
        implementation=implementation,
    )
    rgb, depth, ids = (theirs[name][0, 0] for name in ("rgb", "depth", "ids"))
    assert len(np.unique(ids)) > 8
    mesh = int(np.flatnonzero(host.geom_type == mujoco.mjtGeom.mjGEOM_MESH)[0])
    assert (ids == mesh).sum() > 100
    overlap, error, colour = compare(ours, rgb, depth, ids)
    assert overlap >= 0.98
    assert error <= 1e-3
    assert colour <= 2


@pytest.mark.slow
def test_task_scenes_look_as_in_mujoco(tmp_path):
    env = Tabletop(TabletopConfig(views=("external",)))
    chosen = np.linspace(0, len(tasks.TASKS) - 1, WORLDS).astype(np.int32)

    def look(key: jax.Array, task: jax.Array) -> tuple:
        state = env.reset_task(key, task)
        pictures = [env.render(state, view, SIZE) for view in model.VIEWS]
        return state, pictures

    keys = jax.random.split(jax.random.key(3), WORLDS)
    states, ours = jax.jit(jax.vmap(look))(keys, chosen)
    hosts = [
        mujoco_bridge.to_mujoco(jax.tree.map(lambda x, w=world: x[w], states))
        for world in range(WORLDS)
    ]
    theirs = ask_mujoco(
        tmp_path,
        [host for host, _ in hosts],
        [data.qpos for _, data in hosts],
        model.VIEWS,
    )
    for world in range(WORLDS):
        for view in range(len(model.VIEWS)):
            picture = jax.tree.map(lambda x, w=world: x[w], ours[view])
            shown = (theirs[name][world, view] for name in ("rgb", "depth", "ids"))
            overlap, error, colour = compare(picture, *shown)
            assert overlap >= 0.97
            assert error <= 0.01
            assert colour <= 2


def plain_scene() -> tuple:
    """Return types, geoms, camera and light of a ball over a floor."""
    geoms = raycast.Geoms(
        position=jnp.array([[0.0, 0, 0], [0.1, 0.05, 0.3]]),
        rotation=jnp.stack([jnp.eye(3)] * 2),
        size=jnp.array([[0.0, 0, 0], [0.1, 0, 0]]),
        rgba=jnp.array([[0.5, 0.5, 0.5, 1], [1.0, 0.2, 0.1, 1]]),
        visible=jnp.ones(2, bool),
    )
    camera = render.Camera(jnp.array([0.0, 0.0, 2.0]), jnp.eye(3), 40.0)
    light = render.Light(
        jnp.array([0.5, 0.0, -1.0]), jnp.full(3, 0.4), jnp.full(3, 0.5)
    )
    return (0, 2), geoms, camera, light


def test_pixels_lie_where_the_pinhole_puts_them():
    types, geoms, camera, light = plain_scene()
    picture = render.render(types, geoms, camera, light, height=40, width=80)
    assert picture.rgb.shape == (40, 80, 3) and picture.rgb.dtype == jnp.uint8
    rows, columns = np.nonzero(np.asarray(picture.segmentation) == 1)
    focus = 20 / np.tan(np.deg2rad(20))
    # the ball's middle: x to the right, y up, at 1.7 m
    np.testing.assert_allclose(columns.mean() + 0.5, 40 + focus * 0.1 / 1.7, atol=0.7)
    np.testing.assert_allclose(rows.mean() + 0.5, 20 - focus * 0.05 / 1.7, atol=0.7)
    floor = np.asarray(picture.segmentation) == 0
    # depth is along the axis, not along the ray
    np.testing.assert_allclose(np.asarray(picture.depth)[floor], 2.0, rtol=1e-3)


def test_shadow_falls_where_the_light_sends_it_and_only_if_asked():
    types, geoms, camera, light = plain_scene()
    dark = render.render(types, geoms, camera, light, height=64, width=64)
    plain = render.render(
        types, geoms, camera, light, height=64, width=64, shadows=False
    )
    changed = np.any(np.asarray(dark.rgb) != np.asarray(plain.rgb), axis=-1)
    rows, columns = np.nonzero(changed)
    metres = 2.0 * np.tan(np.deg2rad(20)) / 32
    x, y = (columns + 0.5 - 32) * metres, (32 - rows - 0.5) * metres
    # the shadow's middle is at 0.1 + 0.3 * 0.5; its radius along y is the ball's
    assert abs((x.min() + x.max()) / 2 - 0.25) < 0.06
    assert abs(y.mean() - 0.05) < 0.03
    assert np.all(np.asarray(dark.segmentation)[changed] == 0)
    # ambient light alone is left in the shadow
    np.testing.assert_allclose(np.asarray(dark.rgb)[changed], 0.5 * 0.4 * 255, atol=1)


def test_sky_checker_and_hidden_geoms():
    types, geoms, camera, light = plain_scene()
    hidden = geoms._replace(visible=jnp.array([False, False]))
    sky = render.render(types, hidden, camera, light, height=8, width=8)
    assert np.all(np.asarray(sky.segmentation) == -1)
    assert np.all(np.asarray(sky.depth) == raycast.FAR)
    wanted = np.round(np.array(render.SKY) * 255)
    np.testing.assert_allclose(
        np.asarray(sky.rgb), np.broadcast_to(wanted, (8, 8, 3)), atol=1
    )
    floor = geoms._replace(visible=jnp.array([True, False]))
    squares = render.render(
        types, floor, camera, light, height=32, width=32, checker=0.2
    )
    levels, counts = np.unique(np.asarray(squares.rgb)[..., 0], return_counts=True)
    assert len(levels) == 2 and counts.min() > 32 * 32 / 4


def test_geoms_follow_the_data_and_transparent_ones_are_hidden():
    host = mujoco.MjModel.from_xml_string(random_xml(0))
    host.geom_rgba[3, 3] = 0
    physics = mjx.put_model(host)
    data = mjx.make_data(physics).replace(qpos=jnp.array([0.25]))
    data = mjx.kinematics(physics, data)
    geoms = render.geoms_of(physics, data)
    np.testing.assert_allclose(geoms.position[-1], [0.0, 0.2, 0.7], atol=1e-6)
    assert not geoms.visible[3] and int(geoms.visible.sum()) == host.ngeom - 1


def test_a_height_field_is_refused_with_its_number():
    class Model:
        geom_type = np.array([0, 1])

    with pytest.raises(UserError, match="geom 1 has MuJoCo's geom type 1"):
        render.types_of(Model())
