"""Plans: what the compiler says is what is told, and what does not fit is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
import tiny_qwen
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding

from soler1_jax import cli
from soler1_jax.common.errors import UserError
from soler1_jax.model.flop import decode_flop, prefill_flop
from soler1_jax.planning import memory, plan, stages, topology
from soler1_jax.planning.chips import CHIPS, GIB
from soler1_jax.planning.program import Sizes

SIZES = Sizes(batch=8, tokens=256, pictures=2, picture_side=64, new_tokens=5)
MESH = {"sft": (1, 2, 2), "rlvr": (1, 2, 2), "reward": (2, 1, 2)}


def _question(stage, where="v5p:2x2x1", **sizes):
    found = topology.parse(where)
    mesh = MESH[stage] if found.count == 4 else (1, 1, 1)
    return plan.Question(
        config=tiny_qwen.config(),
        stage=stage,
        topology=found,
        mesh=mesh,
        sizes=dataclasses.replace(SIZES, **sizes),
    )


def _refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *map(str, words)])
    assert stop.value.code == 2
    out, message = capsys.readouterr()
    assert message.count("\n") == 1 and message.startswith("soler1: "), message
    return message


EIGHT = ("--model", "qwen3-vl-8b")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--model", "qwen3-vl-9b", "--stage", "sft"), "qwen3-vl-8b"),
        (("--model", "nano", "--stage", "sft"), "qwen3-vl-8b"),
        (("--model", "paligemma2-3b-224", "--stage", "reward"), "Qwen3-VL's shape"),
        (("--model", "paligemma2-3b-224", "--stage", "sft"), "packed rows need"),
        ((*EIGHT, "--stage", "stf"), "did you mean 'sft'"),
        ((*EIGHT, "--stage", "rlvr", "--microbatches", 2), "a smaller --batch"),
        ((*EIGHT, "--stage", "rl", "--mesh", 2, 1, 2), "make the last 1"),
        ((*EIGHT, "--stage", "rl", "--microbatches", 2), "leave it out"),
        ((*EIGHT, "--stage", "rl", "--pictures", 4), "leave out --pictures"),
        ((*EIGHT, "--stage", "rl", "--tokens", 864), "raise --tokens"),
        ((*EIGHT, "--stage", "rl", "--batch", 4), "at least 2"),
        ((*EIGHT, "--stage", "sft", "--mesh", 1, 2, 4), "chip count"),
        ((*EIGHT, "--stage", "sft", "--mesh", -1, -1, 4), "chip count"),
        ((*EIGHT, "--stage", "sft", "--mesh", 2, 2, 1, "--batch", 6), "multiple"),
        ((*EIGHT, "--stage", "sft", "--batch", 0), "positive"),
        ((*EIGHT, "--stage", "sft", "--microbatches", 0), "--microbatches must be"),
        ((*EIGHT, "--stage", "sft", "--mesh", 0, 1, 4), "chip count"),
        ((*EIGHT, "--stage", "sft", "--tokens", 256), "raise --tokens"),
        ((*EIGHT, "--stage", "reward", "--picture-side", 100), "multiples of 32"),
        ((*EIGHT, "--stage", "sft", "--json", "."), "folder"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, words, hint):
    pytest.importorskip("libtpu")
    assert hint in _refused(capsys, *words, "--topology", "v5p:2x2x1")


def test_an_unknown_topology_is_told_in_one_line(capsys):
    message = _refused(capsys, *EIGHT, "--stage", "sft", "--topology", "v5p:4x4")
    assert "v5p:4x4x4" in message


def test_without_libtpu_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: None)
    topology.devices.cache_clear()
    with pytest.raises(UserError, match=r"\.\[aot\]"):
        plan.plan(_question("sft"))


@pytest.mark.aot
def test_arguments_that_do_not_fit_are_refused_before_compiling(
    capsys, tmp_path, compilations
):
    file = tmp_path / "plan.json"
    words = (*EIGHT, "--stage", "sft", "--topology", "v5e:1x1", "--json", file)
    message = _refused(capsys, *words)
    found = json.loads(file.read_text())
    assert not found["fits"] and not found["compiled"] and not compilations
    # weights and two moments, float32
    assert found["bytes_per_chip"] == pytest.approx(12 * found["parameters"], rel=1e-3)
    over = found["bytes_per_chip"] - CHIPS["v5e"].hbm_bytes
    assert f"{over / GIB:.2f} GiB too much" in message
    assert "larger topology" in message and "--microbatches" in message


@pytest.mark.aot
@pytest.mark.parametrize("name", ["v5e", "v5p", "v6e"])
def test_chips_have_the_memory_that_the_compiler_says(name):
    sides = "x".join(["1"] * CHIPS[name].sides)
    (chip,) = topology.devices(topology.parse(f"{name}:{sides}"))
    large = jax.ShapeDtypeStruct(
        (30 * 2**30,), jnp.float32, sharding=SingleDeviceSharding(chip)
    )
    with pytest.raises(JaxRuntimeError) as error:
        jax.jit(lambda x: x + 1).lower(large).compile()
    told = str(error.value)
    # what it adds one to, and the sum
    assert memory.too_much(told, 240 * GIB) == 480 * GIB
    assert f"available HBM ({CHIPS[name].hbm_bytes / GIB:.2f}G)" in told


@pytest.mark.aot
def test_what_the_compiler_refuses_does_not_fit():
    question = _question("sft", "v5e:1x1", batch=8192, tokens=2048)
    found = plan.plan(question)
    assert not found["fits"] and not found["compiled"] and found["compile_seconds"]
    assert found["bytes_per_chip"] > found["hbm_bytes_per_chip"]
    message = plan.complaint(found)
    assert "arguments alone" not in message and "smaller --batch" in message


def test_a_compiler_may_count_all_or_leave_out_arguments():
    some = "memory required for HLO temporaries (1.50G) exceeds available HBM (1G)."
    assert memory.too_much(some, 7) == 1.5 * GIB + 7
    used = "in memory space hbm. Used 30.50M of 15.75G hbm. Exceeded"
    assert memory.too_much(used, 7) == 30.5 * 2**20
    assert memory.too_much("Ran out of memory in memory space vmem", 7) is None


@pytest.mark.aot
@pytest.mark.parametrize("stage", ["sft", "rlvr", "reward"])
def test_a_plan_tells_what_the_compiler_says(stage):
    question = _question(stage)
    mesh = topology.make_mesh(question.topology, question.mesh)
    program = stages.find(stage).build(question.config, mesh, question.sizes)
    executable = program.lower().compile()
    found = plan.read(question, mesh, program, executable)
    told = executable.memory_analysis()
    assert found["bytes_per_chip"] == (
        told.argument_size_in_bytes
        + told.output_size_in_bytes
        - told.alias_size_in_bytes
        + told.temp_size_in_bytes
        + told.generated_code_size_in_bytes
    )
    assert found["temporary_bytes"] == told.temp_size_in_bytes
    assert found["fits"] and json.dumps(found)
    # what is known without compiling leaves out only the padding of layouts
    exact = program.argument_bytes()
    assert exact <= told.argument_size_in_bytes <= 1.5 * exact
    over = {axis for one in found["collectives"] for axis in one["axes"]}
    if stage != "reward":
        # all of the state is changed in place
        assert told.alias_size_in_bytes >= 0.9 * told.output_size_in_bytes
        assert {"fsdp", "tensor"} <= over <= {"fsdp", "tensor", "data"}
    else:
        assert "tensor" in over and "fsdp" not in over
        assert found["collectives"][0]["count"] > 2 * SIZES.new_tokens
    # the end of an answer, or of what counts forward and backward, is decided late
    assert found["unknown_loops"] == {"sft": 2}.get(stage, 1)
    assert found["seconds_estimate"] == max(found["seconds"].values())
    assert 0 < found["mfu_without_overlap"] < found["mfu_at_estimate"] <= 1


@pytest.mark.aot
def test_an_estimate_takes_arguments_from_shardings_and_times_from_the_gpu():
    real, guess = _question("reward"), _question("reward", "h100:4")
    mesh = topology.make_mesh(real.topology, real.mesh)
    program = stages.find("reward").build(real.config, mesh, real.sizes)
    executable = program.lower().compile()
    tpu, gpu = (plan.read(q, mesh, program, executable) for q in (real, guess))
    assert gpu["argument_bytes"] == program.argument_bytes()
    assert gpu["temporary_bytes"] == tpu["temporary_bytes"]
    ratio = CHIPS["v5p"].flops / CHIPS["h100"].flops
    assert gpu["seconds"]["compute"] == pytest.approx(tpu["seconds"]["compute"] * ratio)
    ratio = CHIPS["v5p"].hbm_rate / CHIPS["h100"].hbm_rate
    assert gpu["seconds"]["hbm"] == pytest.approx(tpu["seconds"]["hbm"] * ratio)


@pytest.mark.aot
def test_the_command_prints_and_writes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "model_config", lambda name: tiny_qwen.config())
    file = tmp_path / "plan.json"
    words = ["--model", "tiny", "--stage", "reward", "--topology", "v5p:2x2x1"]
    words += ["--picture-side", "64", "--pictures", "2", "--tokens", "256"]
    words += ["--batch", "8", "--new-tokens", "5", "--json", str(file)]
    cli.main(["plan", *words])
    out = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["fits"] and found["compiled"] and not found["estimated"]
    assert found["devices"] == 4 and found["mesh"] == {
        "data": 2,
        "fsdp": 1,
        "tensor": 2,
    }
    for key in ("flops_per_step", "collectives", "bound_by", "compile_seconds"):
        assert found[key], key
    assert found["bound_by"] in out and "all-reduce" in out


def test_batches_that_fit_are_looked_for(capsys, tmp_path, monkeypatch):
    pytest.importorskip("libtpu")

    def compiled(question):
        needed = GIB * (1 + question.sizes.batch)
        fits = needed <= question.topology.chip.hbm_bytes
        return {"fits": fits, "bytes_per_chip": needed, "sizes": question.sizes.batch}

    from soler1_jax.cli import plan as command

    monkeypatch.setattr(plan, "plan", compiled)
    monkeypatch.setattr(command, "_print", lambda answer: None)
    file = tmp_path / "plan.json"
    words = [*EIGHT, "--stage", "sft", "--topology", "v5p:2x2x1", "--json", str(file)]
    cli.main(["plan", *words, "--search"])
    found = json.loads(file.read_text())
    # 94 of 95.74 GiB are left for rows, four at a time, less an eighth
    assert 84 <= found["sizes"] <= 92 and found["sizes"] % 4 == 0
    assert [t["batch"] for t in found["trials"]][:2] == [4, 8]
    assert "batch 4: 5.00 GiB" in capsys.readouterr().out


def test_what_writing_costs_is_counted_token_by_token():
    config = tiny_qwen.config()
    small = decode_flop(config, 3, 100, 5)
    assert decode_flop(config, 6, 100, 5) == 2 * small
    assert decode_flop(config, 3, 100, 1) == 0
    # Reading four tokens more counts the scores of all pairs, 816 more and not 410.
    read = [prefill_flop(config, 3, n, jnp.zeros(0, int)) for n in (104, 100)]
    text = config.text
    head = 4 * 2 * 3 * text.vocab_size * text.hidden_size
    scores = 4 * text.depth * text.num_heads * text.head_dim * 3
    assert small == read[0] - read[1] + head - scores * (816 - 410)
