"""Experts say where to go from facts alone; a real run is in test_rollout.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.envs.base import Facts
from soler1_jax.envs.tasks import table, task_index
from soler1_jax.synthesis import experts

_expert = jax.jit(experts.expert)
_TABLE = table()


def facts(**change) -> Facts:
    """A gripper 15 cm over the table, an object 2.9 cm big to its right."""
    values = {
        "gripper": [0.0, 0.0, 0.15],
        "aperture": 0.08,
        "objects": [[0.1, 0.0, 0.029], [-0.1, -0.1, 0.029]],
        "object_yaw": [0.0, 0.0],
        "object_size": [0.029, 0.029],
        "object_present": [True, True],
        "plate": [-0.1, 0.1, 0.004],
        "slide": 0.0,
        "hinge": 0.0,
        "handle": [0.0, 0.1, 0.05],
        "handle_motion": [0.0, -1.0, 0.0],
        "handle_size": [0.024, 0.011, 0.018],
        "target": [0.1, 0.0, 0.029],
        "distance": 0.15,
        "gap": 0.1,
        "reach": 0.0,
        "act": 0.0,
        "contact": False,
        "grasped": False,
        "other_contact": False,
        "other_grasped": False,
        "progress": 0.0,
        "success": False,
    }
    return Facts(**{k: jnp.asarray(v) for k, v in (values | change).items()})


def intent(name, wrong=False, opposite=False, drag=(0.0, 0.0), **change):
    plan = experts.plan_of(_TABLE, task_index(name), wrong, opposite, drag)
    told = _expert(facts(**change), plan)
    return np.asarray(told.goal), float(told.close)


def test_a_lift_goes_over_then_down_then_closes_then_up():
    goal, close = intent("lift-red-cube")
    assert goal[:2] == pytest.approx([0.1, 0.0]) and goal[2] > 0.05 and close == -1
    goal, close = intent("lift-red-cube", gripper=[0.1, 0.0, 0.1])
    assert goal == pytest.approx([0.1, 0.0, 0.029]) and close == -1
    at = [0.1, 0.0, 0.03]
    assert intent("lift-red-cube", gripper=at)[1] == 1
    goal, close = intent("lift-red-cube", gripper=at, grasped=True)
    assert goal[2] > 0.1 and close == 1


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("push-left-red-cube", [-1, 0]),
        ("push-right-red-cube", [1, 0]),
        ("push-away-red-cube", [0, 1]),
        ("push-near-red-cube", [0, -1]),
    ],
)
def test_a_push_comes_from_behind(name, way):
    way = np.array(way)
    stand, close = intent(name)
    assert close == 1
    assert np.dot(stand[:2] - [0.1, 0.0], way) < -0.03
    behind = np.append([0.1, 0.0] - 0.055 * way, 0.03)
    goal, _ = intent(name, gripper=behind.tolist())
    assert np.dot(goal[:2] - behind[:2], way) > 0.05
    against, _ = intent(name, opposite=True)
    assert np.dot(against[:2] - [0.1, 0.0], way) > 0.03


@pytest.mark.parametrize("name", ["lift-red-cube", "place-red-cube"])
def test_what_is_dragged_is_gripped_and_stays_on_the_table(name):
    against = {"opposite": True, "drag": (0.0, 1.0)}
    at = [0.1, 0.0, 0.03]
    assert intent(name, gripper=at, **against)[1] == 1
    goal, close = intent(name, gripper=at, grasped=True, **against)
    assert goal == pytest.approx([0.1, 0.1, 0.03]) and close == 1
    raised = {"gripper": [0.1, 0.0, 0.08], "grasped": True}
    lifted = [[0.1, 0.0, 0.079], [-0.1, -0.1, 0.029]]
    goal, _ = intent(name, objects=lifted, **raised, **against)
    assert goal == pytest.approx([0.1, 0.1, 0.03])
    # Without a direction, and when working with the task, nothing is dragged.
    for others in ({"opposite": True}, {"drag": (0.0, 1.0)}):
        goal, _ = intent(name, gripper=at, grasped=True, **others)
        assert goal != pytest.approx([0.1, 0.1, 0.03])


def test_the_wrong_object_is_the_other_one():
    assert intent("touch-red-cube")[0] == pytest.approx([0.1, 0.0, 0.029])
    assert intent("touch-red-cube", wrong=True)[0] == pytest.approx([-0.1, -0.1, 0.029])


def test_working_against_a_reach_leads_away():
    goal, _ = intent("reach-red-cube", opposite=True)
    assert goal[0] < 0.0


@pytest.mark.parametrize(("name", "sign"), [("open-drawer", -1), ("close-drawer", 1)])
def test_a_drawer_is_driven_along_its_way(name, sign):
    stand, _ = intent(name, gripper=[0.0, 0.1 - sign * 0.04, 0.11])
    assert sign * (stand[1] - 0.1) < -0.02
    goal, close = intent(name, gripper=[0.0, 0.1 - sign * 0.03, 0.05])
    assert sign * (goal[1] - 0.1) > 0.02 and close == 1


def test_what_must_go_up_is_gripped():
    up = {"handle_motion": [0.0, 0.3, 0.95], "gripper": [0.0, 0.1, 0.05]}
    goal, close = intent("open-lid", grasped=True, contact=True, **up)
    assert goal[2] > 0.08 and close == 1


def test_a_solved_task_is_left_alone():
    at = [0.1, 0.0, 0.2]
    goal, close = intent("lift-red-cube", gripper=at, success=True)
    assert goal == pytest.approx(at) and close == 1
