"""When a process joins others, and when it is alone."""

import jax
import pytest

from soler1_jax.common import distributed
from soler1_jax.common.errors import UserError

_NAMES = (
    "SOLER1_DISTRIBUTED JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID "
    "SLURM_STEP_NUM_TASKS OMPI_COMM_WORLD_SIZE TPU_WORKER_HOSTNAMES "
    "MEGASCALE_COORDINATOR_ADDRESS"
).split()


@pytest.fixture
def joined(monkeypatch):
    """Clears the environment; grows by the arguments of each call that joins."""
    calls = []
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **o: calls.append(o))
    return calls


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"SOLER1_DISTRIBUTED": "0"},
    ],
)
def test_alone(variables, joined, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.start()
    assert not joined and distributed.count() == 1 and distributed.is_first()


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_STEP_NUM_TASKS": "8"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"MEGASCALE_COORDINATOR_ADDRESS": "a"},
        {"SOLER1_DISTRIBUTED": "1"},
    ],
)
def test_others_are_found_by_jax(variables, joined, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.start()
    assert joined == [{}]


def test_a_coordinator_comes_with_numbers(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES=None"):
        distributed.start()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    distributed.start()
    wanted = {"coordinator_address": "host:1", "num_processes": 2, "process_id": 1}
    assert joined == [wanted]


def test_an_unreachable_job_is_one_line(monkeypatch, joined):
    def fail(**_):
        raise RuntimeError("deadline exceeded\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setenv("SOLER1_DISTRIBUTED", "1")
    with pytest.raises(UserError, match="could not join .deadline exceeded.;"):
        distributed.start()
