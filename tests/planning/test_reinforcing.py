"""An iteration of reinforcement learning, compiled for chips that are not there."""

import pytest
import tiny_qwen

from soler1_jax.envs.model import ITERATIONS
from soler1_jax.planning import plan, stages, topology
from soler1_jax.planning.hlo import Module
from soler1_jax.planning.program import Sizes
from soler1_jax.rl.ppo import PPOConfig

SIZES = Sizes(batch=8, tokens=1024, pictures=6, picture_side=384, new_tokens=5)
# Two policies of two chips each.
MESH = (2, 2, 1)


@pytest.fixture(scope="module")
def compiled():
    where = topology.parse("v5p:2x2x1")
    question = plan.Question(
        config=tiny_qwen.config(), stage="rl", topology=where, mesh=MESH, sizes=SIZES
    )
    mesh = topology.make_mesh(where, MESH)
    program = stages.find("rl").build(question.config, mesh, SIZES)
    executable = program.lower().compile()
    return program, executable, plan.read(question, mesh, program, executable)


@pytest.mark.aot
def test_only_the_chips_of_one_policy_exchange_anything(compiled):
    program, executable, found = compiled
    assert {tuple(one["axes"]) for one in found["collectives"]} == {("fsdp",)}
    told = executable.memory_analysis()
    exact = program.argument_bytes()
    assert exact <= told.argument_size_in_bytes <= 1.5 * exact
    # a whole rewarder on each chip
    assert exact > 2 * program.parameters
    assert found["fits"] and found["bound_by"] in found["seconds"]


@pytest.mark.aot
def test_loops_whose_end_is_open_run_as_often_as_they_may(compiled):
    program, executable, found = compiled
    assert found["unknown_loops"] == len(program.unknown_trips) == 3
    times = sorted(program.unknown_trips.values())
    assert times == sorted([PPOConfig.epochs, SIZES.new_tokens - 1, ITERATIONS])
    once = Module(executable.as_text())
    most = Module(executable.as_text(), program.unknown_trips)
    ratios = {most.runs[name] / once.runs[name] for name in once.computations}
    # no loop without an end lies in another
    assert ratios == {1, *times}
