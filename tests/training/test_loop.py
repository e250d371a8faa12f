"""The loop: order, logs, continuation, and what happens at a bad batch."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.checkpoints.manager import CheckpointStore
from soler1_jax.common.errors import Terminated, UserError
from soler1_jax.common.mesh import make_mesh
from soler1_jax.common.run import Run
from soler1_jax.training import loop, optimizer, state
from soler1_jax.training.loop import LoopConfig, Stage

CONFIG = optimizer.OptimizerConfig(learning_rate=0.1, warmup_steps=0)
TX = optimizer.make_optimizer(CONFIG, optimizer.schedule(CONFIG, 12))


class Killed(Exception):
    """Stands for the process's end."""


@jax.jit
def _step(current, batch):
    def loss_of(params):
        noise = jax.random.normal(state.step_key(current), (3,))
        return jnp.sum((params["w"] - batch["x"].mean(0) - 0.1 * noise) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(current.params)
    current, metrics = state.apply_gradients(current, loss, grads, TX)
    return current, {"loss": loss, **metrics}


def _stages(die_at=None, bad_at=None):
    def reader(offset):
        def read(step):
            if offset + step == die_at:
                raise Killed
            bad = np.nan if offset + step == bad_at else 0.0
            x = np.random.default_rng(offset + step).normal(size=(2, 3)) + bad
            return {"x": x.astype(np.float32)}

        return read

    return [Stage("one", 5, _step, reader(0)), Stage("two", 7, _step, reader(5))]


def _train(folder, watch=None, **kwargs):
    run = Run(folder, "test", {})
    store = CheckpointStore(folder / "checkpoints")
    first = state.create({"w": jnp.zeros(3)}, TX, seed=4)
    config = LoopConfig(log_every=1, save_every=2, watch_every=3)
    return loop.train(_stages(**kwargs), first, run, store, make_mesh(), config, watch)


def _lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, _train(folder)[0]


def test_stages_run_in_order_and_learn(whole):
    folder, final = whole
    lines = _lines(folder)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["stage"] for line in lines] == ["one"] * 5 + ["two"] * 7
    assert int(final.step) == 12


@pytest.mark.parametrize("die_at", [3, 5, 9])
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path, die_at):
    with pytest.raises(Killed):
        _train(tmp_path, die_at=die_at)
    final, elapsed = _train(tmp_path)
    pairs = zip(jax.tree.leaves(final), jax.tree.leaves(whole[1]), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(_lines(tmp_path), _lines(whole[0]), strict=True):
        assert ours["loss"] == theirs["loss"] and ours["step"] == theirs["step"]
    assert elapsed > 0


def test_a_finished_run_is_not_run_again(whole):
    def watch(*_):
        raise AssertionError

    _train(whole[0], watch=watch, die_at=0)


def test_a_run_that_is_told_to_end_saves_and_continues(whole, tmp_path):
    def watch(name, step, current):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated, match="after step 7 is saved"):
        _train(tmp_path, watch)
    assert signal.getsignal(signal.SIGTERM) is before
    assert max(CheckpointStore(tmp_path / "checkpoints").steps()) == 7
    final, _ = _train(tmp_path)
    np.testing.assert_array_equal(final.params["w"], whole[1].params["w"])


def test_a_bad_batch_stops_the_run_and_keeps_the_state_before_it(whole, tmp_path):
    with pytest.raises(UserError, match="batch 3 of stage two"):
        _train(tmp_path, bad_at=8)
    kept, _ = CheckpointStore(tmp_path / "checkpoints").restore(
        state.create({"w": jnp.zeros(3)}, TX, seed=4)
    )
    assert int(kept.step) == 8
    final, _ = _train(tmp_path)
    np.testing.assert_array_equal(final.params["w"], whole[1].params["w"])


def test_the_watcher_sees_every_interval_and_each_end(tmp_path):
    seen = []

    def watch(stage, step, current):
        seen.append((stage, step, int(current.step)))
        return {"merit": step}

    _train(tmp_path, watch=watch)
    steps = [3, 5, 6, 9, 12]
    assert [s[1] for s in seen] == [s[2] for s in seen] == steps
    assert [x["step"] for x in _lines(tmp_path) if "merit" in x] == steps


def test_a_line_cut_short_is_dropped(tmp_path):
    run = Run(tmp_path, "test", {})
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    loop.prune_metrics(run, 1)
    assert path.read_text() == '{"step": 1}\n'
