"""Plan a pod: compile a real step for chips that are not there.

libtpu's compiler, which needs no TPU (the extra `aot`), says what a step takes of a chip's
memory; its program says which collectives run over which axis of the mesh. Times are
those of a roofline, at the makers' peaks. A plan that does not fit ends with status 2.

soler1 plan --model qwen3-vl-8b --stage sft --topology v5p:4x4x4
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 plan` is asked."""

    model: str
    """qwen3-vl-2b, -4b or -8b."""
    stage: str
    """sft: a step of training on packed rows; rlvr: one of GRPO, writing included;
    reward: answers to a batch of questions; rl: an iteration of PPO with the model in the
    loop, physics and pictures included."""
    topology: str
    """Chips and how they lie, e.g. v5p:4x4x4, v6e:8x8, v5e:2x4; or h100:8, which is
    estimated from the program for a v5p of as many chips."""
    batch: int | None = None
    """Rows, prompts or worlds a step; by default 1 (sft, rlvr) or 8 (reward, rl) for each
    part into which the mesh splits a batch."""
    mesh: tuple[int, int, int] | None = None
    """Chips along data, fsdp and tensor; by default as many on fsdp as leave each 128
    channels (sft, rlvr), or as many on tensor as divide the key-value heads (reward), and
    the rest on data. In rl data separates policies and fsdp shares the worlds of one;
    by default all chips share one's."""
    tokens: int | None = None
    """Of a row (2048 by default), a prompt (512) or a question in the loop (1024), those of
    pictures included."""
    pictures: int | None = None
    """In a row or prompt; 4 by default. In rl 6, as SOLE-R1 is asked."""
    picture_side: int | None = None
    """In pixels; 256 by default. In rl 384."""
    new_tokens: int = 64
    """The most that are written to a prompt, or to each of its completions."""
    group: int = 8
    """Completions of a prompt (rlvr)."""
    microbatches: int = 1
    """Parts of a batch whose gradients are summed one after another."""
    search: bool = False
    """Look for the largest batch that fits, to an eighth; each trial is a compilation."""
    json: Path | None = None
    """File for all figures of the plan."""


def run(args: Args) -> None:
    """Compiles, prints a table, and writes the file.

    Raises:
      UserError: something is unknown or out of range, libtpu is missing, or the step
        does not fit.
    """
    import jax

    from soler1_jax.common.errors import UserError
    from soler1_jax.common.run import command_line, write_json
    from soler1_jax.planning import plan as plans

    # A machine with an accelerator compiles for others, too.
    jax.config.update("jax_platforms", "cpu")
    question = ask(args)
    if args.json is not None and args.json.is_dir():
        raise UserError(
            f"--json is a file to be written; {args.json} is a folder; name a file in it"
        )
    answer = _search(question) if args.search else plans.plan(question)
    answer["command"] = command_line()
    if args.json is not None:
        write_json(args.json, answer)
    if not answer["fits"]:
        raise UserError(plans.complaint(answer))
    _print(answer)


def ask(args: Args) -> Any:
    """Makes a question of what the user typed.

    Raises:
      UserError: something is unknown or out of range.
    """
    from soler1_jax.common.errors import require_positive
    from soler1_jax.planning import plan as plans
    from soler1_jax.planning import stages, topology
    from soler1_jax.planning.program import Sizes

    stage = stages.find(args.stage)
    where = topology.parse(args.topology)
    config = stages.model_config(args.model)
    mesh = args.mesh or stage.mesh(config, where.count)
    topology.check_mesh(where, mesh)
    require_positive("--microbatches", args.microbatches)
    parts = mesh[0] * mesh[1] * args.microbatches
    sizes = Sizes(
        batch=_or(args.batch, stage.rows * parts),
        tokens=_or(args.tokens, stage.tokens),
        pictures=_or(args.pictures, stage.pictures),
        picture_side=_or(args.picture_side, stage.picture_side),
        new_tokens=args.new_tokens,
        group=args.group,
        microbatches=args.microbatches,
    )
    question = plans.Question(
        config=config, stage=args.stage, topology=where, mesh=mesh, sizes=sizes
    )
    plans.check(question)
    return question


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _search(question: Any) -> dict[str, Any]:
    """The plan of the largest batch that fits, with all that were tried."""
    from soler1_jax.planning import plan as plans
    from soler1_jax.planning.search import largest

    answers = {}

    def needs(units: int) -> int:
        batch = units * question.parts
        sizes = dataclasses.replace(question.sizes, batch=batch)
        answers[batch] = plans.plan(dataclasses.replace(question, sizes=sizes))
        needed = answers[batch]["bytes_per_chip"]
        print(f"batch {batch}: {_gib(needed)} a chip", flush=True)
        return needed

    largest(needs, question.topology.chip.hbm_bytes)
    best = max(batch for batch, answer in answers.items() if answer["fits"])
    tried = [
        {"batch": batch, "bytes_per_chip": answer["bytes_per_chip"]}
        for batch, answer in answers.items()
    ]
    return answers[best] | {"trials": tried}


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    mesh = " x ".join(f"{name} {size}" for name, size in answer["mesh"].items())
    kind = ", estimated" if answer["estimated"] else ""
    rows = {
        "plan": f"{answer['model']} {answer['stage']} on {answer['topology']}{kind}",
        "mesh": f"{mesh}; batch {answer['batch']} x {answer['tokens']} tokens",
        "parameters": f"{answer['parameters']:,}",
        "a chip": f"{_gib(answer['bytes_per_chip'])} of "
        f"{_gib(answer['hbm_bytes_per_chip'])}: arguments "
        f"{_gib(answer['argument_bytes'])}, temporaries "
        f"{_gib(answer['temporary_bytes'])}, code {_gib(answer['code_bytes'])}",
        "FLOP a step": f"{answer['flops_per_step']:.3e} of the model, "
        f"{answer['recomputed']:.2f} times as many computed",
        "seconds": f"{answer['seconds_estimate']:.4f} if all overlaps, bound by "
        f"{answer['bound_by']}; {answer['seconds_without_overlap']:.4f} if nothing does",
        "at its best": f"{answer['tokens_per_second']:,.0f} tokens/s, MFU "
        f"{answer['mfu_at_estimate']:.2f}; {answer['mfu_without_overlap']:.2f} "
        "if nothing overlaps",
        "compiled": f"for {answer['compiled_for']} in {answer['compile_seconds']} s, "
        f"libtpu {answer['versions']['libtpu']}",
    }
    if answer["estimated"]:
        rows["estimated"] = (
            "arguments are exact; temporaries, collectives and memory traffic are those "
            f"of {answer['compiled_for']}; times by {answer['topology']}'s peaks"
        )
    head = Table(box=None, show_header=False)
    for name, text in rows.items():
        head.add_row(name, text)
    console.print(head)
    table = Table(box=None)
    for name in ("collective", "over", "chips", "times a step", "GiB a chip receives"):
        table.add_column(name)
    for one in answer["collectives"]:
        received = f"{one['wire_bytes'] / 2**30:.3f}"
        over = "+".join(one["axes"])
        cells = (one["kind"], over, one["chips"], one["count"], received)
        table.add_row(*map(str, cells))
    console.print(table)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
