"""`soler1 bench`: what it writes and what it refuses."""

import json
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import pytest
from soler1_jax.kernels.flash_attention.shapes import Shape

from soler1_jax import cli
from soler1_jax.cli import bench, bench_attention, bench_loop, bench_render
from soler1_jax.common.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "--worlds", "0"], "worlds must be positive"),
        (["render", "--sizes", "0"], "side must be positive"),
        (["render", "--repeats", "0"], "repeats must be positive"),
        (["attention", "--repeats", "0"], "repeats must be positive"),
        (["loop", "--seed", "-1"], "seed must not be negative"),
        (["loop", "--every", "7"], "divides the episode's 40"),
        (["loop", "--rewarder", "oracle"], "knows no truth"),
        (["loop", "--rewarder", "random", "--task", "reach-red-cub"], "reach-red-cube"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *words, "--out", str(out)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not out.exists()


def test_missing_warp_is_said_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(bench_render.importlib.util, "find_spec", lambda name: None)
    rows = bench_render.measure(worlds=(1,), sizes=(8,), warp=True, repeats=1, seed=0)
    with pytest.raises(UserError, match="warp-lang"):
        next(rows)


def test_rows_reach_the_table_and_the_result(monkeypatch, tmp_path, capsys):
    def rows(**settings):
        assert settings == {
            "worlds": (3,),
            "sizes": (8,),
            "warp": False,
            "repeats": 1,
            "seed": 0,
        }
        yield {"renderer": "one", "size": 8, "frames_per_second": 12.5}
        yield {"renderer": "two", "size": 8, "frames_per_second": 25.0, "times_warp": 2}

    monkeypatch.setattr(bench_render, "measure", rows)
    args = bench.Render(out=tmp_path, worlds=(3,), sizes=(8,), warp=False, repeats=1)
    bench.run(args)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["frames_per_second"] for row in result["rows"]] == [12.5, 25.0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    shown = capsys.readouterr().out
    assert "times Warp" in shown and "25.0" in shown


@pytest.mark.slow
def test_renderer_is_timed(tmp_path):
    args = bench.Render(out=tmp_path, worlds=(1, 2), sizes=(8,), warp=False, repeats=1)
    bench.run(args)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["shadows"] for row in rows] == [True, False] * 2
    assert [row["worlds"] for row in rows] == [1, 1, 2, 2]
    assert all(row["frames_per_second"] > 0 for row in rows)


class Body(NamedTuple):
    qpos: jax.Array


@flax.struct.dataclass
class Slid:
    """A state of `Slide`."""

    data: Body
    obs: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class Slide:
    """A world without physics: one number that actions move."""

    action_size = 1

    def __init__(self, config: object):
        self.views = config.views

    def reset_task(self, key: jax.Array, task: jax.Array) -> Slid:
        return self._state(jnp.zeros(1))

    def step(self, state: Slid, action: jax.Array) -> Slid:
        return self._state(state.data.qpos + action)

    def _state(self, place: jax.Array) -> Slid:
        pixels = jnp.full((16, 16, 3), place[0]).astype(jnp.uint8)
        obs = {f"pixels/{view}": pixels for view in self.views} | {"proprio": place}
        metrics = {"progress": place[0], "success": jnp.float32(0)}
        return Slid(Body(place), obs, metrics)


@pytest.mark.slow
def test_loop_is_timed_part_by_part_and_beside_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_loop, "Tabletop", Slide)
    args = bench.Loop(out=tmp_path, rewarder="random", worlds=4, every=(20,), repeats=1)
    bench.run(args)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["part"] for row in rows] == [
        "physics",
        "+ pixels",
        "+ policy",
        "+ rewarder",
        "+ learning",
        "server, one request a batch",
        "server, one request a world",
    ]
    assert all(row["control_steps_per_second"] > 0 for row in rows)
    assert all(row["times_slower"] > 0 for row in rows[-2:])


def test_attention_is_timed(monkeypatch, tmp_path, capsys):
    small = {"small": Shape(1, 32, 2, 1, 8, causal=True, segments=(20, 9))}
    monkeypatch.setattr(bench_attention, "SHAPES", small)
    monkeypatch.setattr(bench_attention, "_PREFIX", 16)
    monkeypatch.setattr(bench_attention, "_SUFFIX", 4)
    bench.run(bench.Attention(out=tmp_path, repeats=1))
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["pass"] for row in rows] == ["forward", "and backward"] * 2
    assert all(row["milliseconds"] > 0 and row["times_faster"] > 0 for row in rows)
    assert rows[0]["work"] == round((20 * 21 + 9 * 10) / 2 / 32**2, 3)
    assert "times faster" in capsys.readouterr().out
