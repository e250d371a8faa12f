"""Scenes: who is there, what it looks like, and that nothing important hides."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from soler1_jax.envs import fixtures, model, mujoco_bridge, poses, tabletop, tasks

ENV = tabletop.Tabletop(tabletop.TabletopConfig(views=()))
RESET = jax.jit(jax.vmap(ENV.reset_task))
COUNT = len(tasks.TASKS)


@pytest.fixture(scope="module")
def states():
    """Two worlds of every task."""
    keys = jax.random.split(jax.random.key(0), 2 * COUNT)
    return RESET(keys, jnp.tile(jnp.arange(COUNT), 2))


def test_the_named_thing_is_there(states):
    scene = states.info["scene"]
    for index in range(2 * COUNT):
        task = tasks.TASKS[index % COUNT]
        one = jax.tree.map(lambda leaf: np.asarray(leaf)[index], scene)  # noqa: B023
        words = ENV.describe(index % COUNT, one)
        assert words["sentence"] == task.sentence
        if task.fixture:
            assert words["fixture"] == task.fixture
        else:
            assert words["objects"][0]["noun"] == task.noun
            assert words["objects"][0]["present"]
        assert words["slide"] is None or words["hinge"] is None
        nouns = [o["noun"] for o in words["objects"]]
        assert nouns[0] != nouns[1]
        if task.family == "place":
            assert words["plate"]


def test_distractors_often_share_colour_or_shape(states):
    scene = jax.tree.map(np.asarray, states.info["scene"])
    same_color = scene.color[:, 0] == scene.color[:, 1]
    same_shape = scene.shape[:, 0] == scene.shape[:, 1]
    assert 0.4 < np.mean(same_color | same_shape) < 0.9
    assert same_color.any() and same_shape.any()


def test_worlds_differ_in_everything_that_is_random(states):
    scene = jax.tree.map(np.asarray, states.info["scene"])
    for name in ("half", "camera_pos", "camera_fovy", "light_direction"):
        values = getattr(scene, name).reshape(2 * COUNT, -1)
        assert values.std(axis=0).min() > 1e-4, name
    table = scene.geom_rgba[:, model.ids().geom["table"], :3]
    assert table.std(axis=0).min() > 0.02


def test_things_keep_apart(states):
    facts = jax.vmap(ENV.facts)(states)
    scene = states.info["scene"]
    objects = np.array(facts.objects)[..., :2]
    both = np.array(scene.present).all(axis=1)
    apart = np.linalg.norm(objects[:, 0] - objects[:, 1], axis=-1)[both]
    assert apart.min() > 0.07
    place = np.array(
        [tasks.TASKS[i % COUNT].family == "place" for i in range(2 * COUNT)]
    )
    plate = np.linalg.norm(objects[:, 0] - np.array(facts.plate)[:, :2], axis=-1)
    assert plate[place].min() > 0.08


def test_the_external_camera_sees_what_the_task_names(states):
    see = jax.jit(jax.vmap(lambda s: ENV.semantic(ENV.render(s, "external", 64)[2])))
    classes = np.array(see(states)).reshape(2 * COUNT, -1)
    for index in range(2 * COUNT):
        task = tasks.TASKS[index % COUNT]
        name = "object0"
        if task.fixture:
            name = "slide" if task.fixture in fixtures.SLIDES else "hinge"
        seen = (classes[index] == model.CLASSES.index(name)).sum()
        assert seen >= 8, (task.name, seen)
        assert (classes[index] == model.CLASSES.index("gripper")).sum() > 30


def test_poses_are_mujocos(states):
    noise = 0.1 * np.random.default_rng(0).standard_normal((6, model.Q))
    picks = [tasks.task_index(n) for n in ("open-drawer", "close-door", "open-lid")]
    for row, index in enumerate([*picks, *(COUNT + i for i in picks)]):
        one = jax.tree.map(lambda leaf: leaf[index], states)  # noqa: B023
        qpos = one.data.qpos + jnp.asarray(noise[row], jnp.float32)
        data = poses.update(one.data.replace(qpos=qpos), one.info["scene"])
        _, theirs = mujoco_bridge.to_mujoco(one.replace(data=data))
        for name in ("xpos", "xmat", "geom_xpos", "geom_xmat"):
            ours = np.asarray(getattr(data, name)).reshape(-1)
            np.testing.assert_allclose(
                ours, getattr(theirs, name).reshape(-1), atol=2e-6, err_msg=name
            )
        np.testing.assert_allclose(data.xaxis[13:], theirs.xaxis[13:], atol=2e-6)
        np.testing.assert_allclose(data.xanchor[14], theirs.xanchor[14], atol=2e-6)


def test_the_bridge_wants_one_world_and_has_its_cameras(states):
    with pytest.raises(ValueError, match="one world"):
        mujoco_bridge.to_mujoco(states)
    one = jax.tree.map(lambda leaf: leaf[0], states)
    physics, data = mujoco_bridge.to_mujoco(one)
    for view in model.VIEWS:
        camera = ENV.camera(one, view)
        index = mujoco.mj_name2id(physics, mujoco.mjtObj.mjOBJ_CAMERA, view)
        np.testing.assert_allclose(data.cam_xpos[index], camera.position, atol=1e-5)
        mat = data.cam_xmat[index].reshape(3, 3)
        np.testing.assert_allclose(mat, camera.rotation, atol=1e-5)
        assert physics.cam_fovy[index] == pytest.approx(float(camera.fovy), rel=1e-5)
