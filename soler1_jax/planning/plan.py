"""A plan: a step compiled for a machine that is not there, and what follows from it."""

import dataclasses
import importlib.metadata
import time
from typing import Any

from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.planning import collectives, memory, stages, topology
from soler1_jax.planning.chips import GIB
from soler1_jax.planning.hlo import Module
from soler1_jax.planning.program import Program, Sizes
from soler1_jax.planning.roofline import roofline
from soler1_jax.planning.topology import Topology
from soler1_jax.planning.traffic import hbm_bytes

_VERSIONS = ("jax", "jaxlib", "libtpu", "soler1_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be planned.

    Attributes:
      config: of the model.
      stage: a key of `stages.STAGES`.
      topology: of the machine.
      mesh: sizes of (data, fsdp, tensor).
      sizes: of a step.
    """

    config: ModelConfig
    stage: str
    topology: Topology
    mesh: tuple[int, int, int]
    sizes: Sizes

    @property
    def parts(self) -> int:
        """Into which the mesh and the microbatches split a batch."""
        return self.mesh[0] * self.mesh[1] * self.sizes.microbatches


def plan(question: Question) -> dict[str, Any]:
    """Compiles and reads what came of it.

    Returns:
      What `soler1 plan --json` writes; docs/plan.md lists it. Without "compiled" the
      arguments alone were too large, or the compiler refused.

    Raises:
      UserError: the topology cannot be described, or the step cannot be made so.
    """
    check(question)
    mesh = topology.make_mesh(question.topology, question.mesh)
    build = stages.find(question.stage).build
    program = build(question.config, mesh, question.sizes)
    known = _known(question, program)
    least = program.argument_bytes()
    if least > question.topology.chip.hbm_bytes:
        return known | _refused(least)
    started = time.monotonic()
    try:
        executable = program.lower().compile()
    except JaxRuntimeError as error:
        needed = memory.too_much(str(error), least)
        if needed is None:
            raise UserError(
                "libtpu must be able to compile a step; it says of this one: "
                f"{str(error)[:300]}; change its sizes or --mesh"
            ) from error
        known["compile_seconds"] = round(time.monotonic() - started, 1)
        return known | _refused(needed)
    known["compile_seconds"] = round(time.monotonic() - started, 1)
    return known | read(question, mesh, program, executable)


def check(question: Question) -> None:
    """Raises UserError where the mesh does not suit the machine or the batch."""
    topology.check_mesh(question.topology, question.mesh)
    if question.sizes.batch % question.parts:
        raise UserError(
            f"the mesh and {question.sizes.microbatches} microbatches split a batch into "
            f"{question.parts} parts; got --batch {question.sizes.batch}; give a multiple"
        )


def read(
    question: Question, mesh: Mesh, program: Program, executable: Any
) -> dict[str, Any]:
    """Reads a compiled program.

    Args:
      question: what was planned.
      mesh: what it was compiled for.
      program: before it was compiled.
      executable: of `program.lower().compile()`.
    """
    where, chip = question.topology, question.topology.chip
    used = memory.of(executable)
    if where.estimated:
        used = used._replace(arguments=program.argument_bytes())
    module = Module(executable.as_text(), program.unknown_trips)
    found = collectives.read(module, mesh.shape)
    moved = hbm_bytes(module)
    roofs = roofline(where, mesh, program.flops / where.count, moved, found)
    peak = where.count * chip.flops
    return {
        "compiled": True,
        "fits": used.total <= chip.hbm_bytes,
        "bytes_per_chip": used.total,
        "argument_bytes": used.arguments,
        "output_bytes": used.outputs,
        "temporary_bytes": used.temporaries,
        "aliased_bytes": used.aliased,
        "code_bytes": used.code,
        "hbm_traffic_bytes_per_chip": moved,
        "collectives": [one._asdict() for one in found],
        "unknown_loops": module.unknown_loops,
        "seconds": roofs.parts,
        "seconds_estimate": roofs.overlapped,
        "seconds_without_overlap": roofs.one_by_one,
        "bound_by": roofs.bound_by,
        "tokens_per_second": program.tokens / roofs.overlapped,
        "mfu_at_estimate": program.model_flops / roofs.overlapped / peak,
        "mfu_without_overlap": program.model_flops / roofs.one_by_one / peak,
    }


def _known(question: Question, program: Program) -> dict[str, Any]:
    where = question.topology
    return {
        "model": question.config.name,
        "stage": question.stage,
        "topology": str(where),
        "devices": where.count,
        "mesh": dict(zip(("data", "fsdp", "tensor"), question.mesh, strict=True)),
        **dataclasses.asdict(question.sizes),
        "parameters": program.parameters,
        "tokens_per_step": program.tokens,
        "flops_per_step": program.model_flops,
        "recomputed": program.flops / program.model_flops,
        "hbm_bytes_per_chip": where.chip.hbm_bytes,
        "estimated": where.estimated,
        "compiled_for": str(topology.stand_in(where)),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": _versions(),
    }


def _refused(needed: int) -> dict[str, Any]:
    """A plan that does not fit, known before or instead of a compiled program."""
    return {"compiled": False, "fits": False, "bytes_per_chip": needed}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def complaint(answer: dict[str, Any]) -> str:
    """Says of a plan that does not fit by how much, and what to change; one line."""
    needed, there = answer["bytes_per_chip"] / GIB, answer["hbm_bytes_per_chip"] / GIB
    counted = ""
    if "compile_seconds" not in answer:
        counted = " for its arguments alone"
    change = "a larger topology, a smaller --batch, another --mesh"
    if answer["stage"] == "sft":
        change += ", more --microbatches"
    return (
        f"a step must fit its chips; {answer['model']} {answer['stage']} needs "
        f"{needed:.2f} GiB of a chip of {answer['topology']}{counted}, which has "
        f"{there:.2f}: {needed - there:.2f} GiB too much; try {change}"
    )
