"""Times the attention kernels on an NVIDIA GPU beside what others offer there.

    python experiments/gpu_attention.py

Peers: cuDNN through `jax.nn.dot_product_attention`, the attention kernel that comes with
jax's Pallas (float16, without scale, segments and causal backward), and torch's
`scaled_dot_product_attention` where torch is installed.

A time is that of one call among several with different random inputs in one program,
the median over repeats, without compilation; torch's calls are replayed from a CUDA
graph. TFLOP/s count the products of allowed pairs of query and key only, GB/s the caches
up to the lengths. The ceilings, a product of matrices and a copy, are measured in the
same run. Errors are relative to float32 attention on the same inputs. `--small` runs tiny
cases with what works on a machine without such a GPU. Figures:
experiments/results/gpu_attention.json.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import gpu_attention_cases as cases
import jax
import jax.numpy as jnp
import tyro

from soler1_jax.common.run import command_line, environment, write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to measure."""

    kinds: tuple[Literal["flash", "prefix", "decode"], ...] = (
        "flash",
        "prefix",
        "decode",
    )
    """Kernels."""
    repeats: int = 5
    """Timed runs, each of several calls."""
    only: str = ""
    """Part of the names of the cases wanted."""
    small: bool = False
    """Tiny cases, to try the script."""
    out: Path = Path("experiments/results/gpu_attention.json")
    """Where the figures go."""


def compile_call(call: cases.Call, case: cases.Case) -> Any:
    """Return a program that calls on each of the case's inputs, or why there is none."""
    one = jax.jit(call)
    given = tuple(jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in case.shapes)
    every = jax.jit(lambda inputs: [one(*x) for x in inputs])
    try:
        return every.lower([given] * case.count).compile()
    except Exception as why:  # noqa: BLE001 - that a peer cannot do a case is a result
        return why


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call that blocks."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def attempt(row: dict[str, Any], call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the row with its figures, or with why there are none."""
    try:
        row = row | call()
    except Exception as why:  # noqa: BLE001 - that a peer cannot do a case is a result
        said = f"{type(why).__name__}: {why}".splitlines()[0]
        return row | {"failed": said[:300]}
    for work, unit, factor in (
        ("flops", "tflops_per_second", 1e12),
        ("bytes", "gb_per_second", 1e9),
    ):
        if work in row:
            row[unit] = row[work] / row["microseconds"] * 1e6 / factor
    return row


def rows_of(
    case: cases.Case, programs: dict[str, Any], repeats: int
) -> Iterator[dict[str, Any]]:
    """Yield one row a call."""
    inputs = [case.draw(jax.random.key(i)) for i in range(case.count)]

    def ours(program: Any) -> dict[str, Any]:
        if isinstance(program, Exception):
            raise program
        first = program(inputs)[0]
        wrong = case.check(inputs[0], first) if case.check else None
        del first
        took = median_seconds(lambda: jax.block_until_ready(program(inputs)), repeats)
        return {"microseconds": took / case.count * 1e6, "error": wrong}

    for label, program in programs.items():
        yield attempt(case.row | {"by": label}, functools.partial(ours, program))
    if case.torch is not None:
        yield attempt(
            case.row | {"by": "torch sdpa"},
            functools.partial(torch_figures, case, inputs, repeats),
        )


def torch_figures(
    case: cases.Case, inputs: list[tuple], repeats: int
) -> dict[str, Any]:
    """Return the time of torch's call."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = []
    for arrays in inputs:
        # a query of decoding has no axis of tokens
        shapes = [(x[:, None] if x.ndim == 3 else x).shape for x in arrays]
        tensors = [
            torch.randn(s, device=device, dtype=torch.bfloat16).transpose(1, 2)
            for s in shapes
        ]
        for x in tensors[: case.learns]:
            x.requires_grad_(True)
        given.append(tensors)
    call = case.torch(*given[0])

    def every() -> None:
        for tensors in given:
            out = call(*tensors[:3])
            if case.learns:
                torch.autograd.grad(out, tensors[:3], tensors[3])

    run = every
    if device == "cuda":
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            every()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            every()

        def run() -> None:
            graph.replay()
            torch.cuda.synchronize()

    return {
        "microseconds": median_seconds(run, repeats) / case.count * 1e6,
        "error": None,
    }


def ceilings(size: int) -> dict[str, float]:
    """Return the TFLOP/s of a product of matrices and the GB/s of a copy."""
    square, long = (size, size), (size * 16, size)

    def seconds(call: cases.Call, shapes: list[tuple[int, ...]], count: int) -> float:
        case = cases.Case(
            {}, shapes, count, {}, functools.partial(cases.draw, shapes), None
        )
        rows = rows_of(case, {"": compile_call(call, case)}, 7)
        return next(rows)["microseconds"] / 1e6

    product = seconds(jnp.matmul, [square, square], 4)
    copy = seconds(lambda x: x + jnp.bfloat16(1), [long], 2)
    return {
        "matmul_tflops_per_second": 2 * size**3 / product / 1e12,
        "copy_gb_per_second": 4 * size * size * 16 / copy / 1e9,
    }


def line(row: dict[str, Any], top: dict[str, float]) -> str:
    """Return a row as text."""
    head = f"{row['case'][:32]:32} {row['kind'][:20]:20} {row['by']:22}"
    if "failed" in row:
        return f"{head} {row['failed'][:160]}"
    speed, unit, limit = (
        (row["tflops_per_second"], "TFLOP/s", top["matmul_tflops_per_second"])
        if "flops" in row
        else (row["gb_per_second"], "GB/s", top["copy_gb_per_second"])
    )
    wrong = "" if row["error"] is None else f"error {row['error']:.1e}"
    return (
        f"{head} {row['microseconds']:9.1f} us {speed:7.1f} {unit} {speed / limit:4.0%}"
        f" {wrong}"
    )


def main(args: Args) -> None:
    """Measures, prints a line a row, writes the figures."""
    gpu = jax.default_backend() == "gpu"
    flash, prefix, decode = cases.FLASH, cases.PREFIX, cases.DECODE
    if args.small:
        flash, prefix = cases.SMALL_FLASH, cases.SMALL_PREFIX
        decode = cases.SMALL_DECODE
    sources = {
        "flash": cases.flash_cases(flash, gpu),
        "prefix": cases.prefix_cases(prefix, gpu),
        "decode": cases.decode_cases(decode, gpu),
    }
    every = itertools.chain.from_iterable(sources[kind] for kind in args.kinds)
    wanted = [case for case in every if args.only in case.row["case"]]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # all before the first timing: a GPU's compiler tries programs on it
        pending = [
            {k: pool.submit(compile_call, call, case) for k, call in case.calls.items()}
            for case in wanted
        ]
        ready = [{k: f.result() for k, f in each.items()} for each in pending]
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    top = ceilings(256 if args.small else 8192)
    print(top, flush=True)
    rows = []
    for case, programs in zip(wanted, ready, strict=True):
        for row in rows_of(case, programs, args.repeats):
            rows.append(row)
            print(line(row, top), flush=True)
            figures = {"ceilings": top, "rows": rows}
            about = {"command": command_line(), "environment": environment()}
            write_json(args.out, about | figures)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
