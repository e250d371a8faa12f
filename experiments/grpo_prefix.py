"""Times a GRPO step that computes each prompt once beside one that copies it.

    python experiments/grpo_prefix.py

Prompts of 1,024 tokens with three pictures, 8 completions of 128 tokens each, a random
model of Qwen3-VL's shape with 78 M parameters. Three parts: writing the completions,
learning from them, and both. The copied form is the same code with every prompt, its
pictures included, G times in the batch; both sides give gradients of the same norm, which is checked.
The two take turns, so that a busy moment of the machine hits both, and learn so slowly
that the weights stay what they are. Hardware: CPU, all cores. Figures: experiments/results/grpo_prefix.json.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from soler1_jax.cli.bench_generate import PRESETS, make_inputs
from soler1_jax.common import mesh as meshes
from soler1_jax.common.run import command_line, environment, write_json
from soler1_jax.data.packing import PackedRows, RowShape, make_example, one_a_row
from soler1_jax.model.functional import Functional
from soler1_jax.model.vlm import VLM
from soler1_jax.sampling import unconstrained
from soler1_jax.sampling.methods import Method
from soler1_jax.training import grouped, packed, state
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.optimizer import OptimizerConfig, make_optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to measure."""

    preset: str = "small"
    """As of `soler1 bench generate`."""
    prompts: int = 1
    """In a batch."""
    group: int = 8
    """Completions of a prompt."""
    prompt_tokens: int = 1024
    """Those of its pictures included."""
    completion_tokens: int = 128
    """Of each completion."""
    pictures: int = 3
    """In each prompt."""
    picture_side: int = 512
    """In pixels."""
    repeats: int = 3
    """Rounds in which both sides take turns; medians count."""
    out: Path = Path("experiments/results/grpo_prefix.json")
    """Where the figures go."""


def copied_hidden(
    model: VLM,
    prompts: PackedRows,
    tokens: jax.Array,
    lengths: jax.Array,
    mesh: Any = None,
) -> jax.Array:
    """What `grouped.completion_hidden` returns, by full copies of the prompts."""
    batch, group, length = tokens.shape
    copies = _copies(prompts, group)
    prefix, _ = grouped.prompt_prefix(model, copies, mesh)
    words = model.embed_tokens(
        tokens[:, :, :-1].reshape(batch * group, -1), model.config.dtype
    )
    steps = prefix.next_position[:, None] + jnp.arange(length - 1)
    steps = jnp.broadcast_to(steps[:, None], (batch * group, 3, length - 1))
    seen = jnp.arange(length - 1) < lengths.reshape(-1, 1) - 1
    hidden, _ = model.language_model(
        jnp.concatenate([prefix.embeds, words], axis=1),
        jnp.concatenate([prefix.positions, steps], axis=2),
        None,
        prefix.deepstack,
        segments=jnp.concatenate([prefix.mask, seen], axis=1).astype(jnp.int32),
    )
    last = jnp.take_along_axis(hidden, prefix.last[:, None, None], axis=1)
    hidden = jnp.concatenate([last, hidden[:, prefix.mask.shape[1] :]], axis=1)
    return hidden.reshape(batch, group, length, -1)


def _copies(prompts: PackedRows, group: int) -> PackedRows:
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), group, axis=0), prompts)


def main(args: Args) -> None:
    """Measures, prints, and writes the figures."""
    config, functions, params, prompts = _problem(args)
    grpo = GrpoConfig(group=args.group)
    method = Method(temperature=grpo.temperature, top_p=grpo.top_p)
    mesh = meshes.make_mesh()
    key = jax.random.key(0)

    def write(group: int, params: Any, prompts: PackedRows) -> unconstrained.Written:
        model = functions.module(packed.lowered(params, config.dtype))
        prefix, _ = grouped.prompt_prefix(model, prompts)
        return unconstrained.write(
            model,
            prefix,
            key,
            length=args.completion_tokens,
            method=method,
            group=group,
            noted_temperature=grpo.temperature,
        )

    samplers = {
        "shared": jax.jit(lambda *given: write(args.group, *given)),
        "copied": jax.jit(
            lambda params, prompts: write(1, params, _copies(prompts, args.group))
        ),
    }
    logical = functions.logical_axes()
    optimizer = make_optimizer(OptimizerConfig(), lambda _: 1e-10, logical)
    held = [jax.device_put(state.create(params, optimizer, 0))]
    del params
    placed = state.state_shardings(held[0], mesh, logical)
    updates = {
        side: grouped.make_update(functions, optimizer, grpo, mesh, placed)
        for side in samplers
    }

    hidden = {"shared": grouped.completion_hidden, "copied": copied_hidden}

    def learn(side: str, written: unconstrained.Written) -> float:
        """Learns, and returns the norm of the gradient."""
        out = _completions(written, args)
        # Around every call: a program may be traced again.
        with mock.patch.object(grouped, "completion_hidden", hidden[side]):
            held[0], metrics = updates[side](held[0], prompts, out)
        return float(jax.block_until_ready((held[0], metrics))[1]["grad_norm"])

    def step(side: str) -> tuple[float, float]:
        """Seconds of writing and of learning."""
        start = time.perf_counter()
        written = jax.block_until_ready(samplers[side](held[0].params, prompts))
        middle = time.perf_counter()
        learn(side, written)
        return middle - start, time.perf_counter() - middle

    written = samplers["shared"](held[0].params, prompts)
    norms = {side: learn(side, written) for side in samplers}
    rounding = 1e-3 if config.dtype == "float32" else 5e-2
    np.testing.assert_allclose(norms["copied"], norms["shared"], rtol=rounding)
    for side in samplers:
        step(side)
    rounds = [{side: step(side) for side in samplers} for _ in range(args.repeats)]
    row = _summary(rounds)
    print(row)
    write_json(
        args.out,
        {
            "command": command_line(),
            "environment": environment(),
            "preset": config.name,
            "gradient_norm": norms,
            **{k: v for k, v in dataclasses.asdict(args).items() if k != "out"},
            **row,
        },
    )


def _problem(args: Args) -> tuple[Any, Functional, Any, PackedRows]:
    config = PRESETS[args.preset]
    inputs = make_inputs(
        config, args.prompts, args.prompt_tokens, args.pictures, args.picture_side, 0
    )
    thw, pixels = inputs["image_grid_thw"], inputs["pixel_values"]
    patches = int(thw[0].prod())
    examples = [
        make_example(
            config,
            inputs["input_ids"][i],
            np.zeros(args.prompt_tokens),
            pixel_values=pixels.reshape(args.prompts, -1, pixels.shape[-1])[i],
            image_grid_thw=thw[: args.pictures],
        )
        for i in range(args.prompts)
    ]
    shape = RowShape(
        rows=args.prompts,
        length=args.prompt_tokens,
        pictures=args.pictures,
        patches=patches,
    )
    functions = Functional(config)
    params = jax.jit(lambda: functions.init(0))()
    prompts = jax.device_put(one_a_row(examples, config, shape))
    return config, functions, params, prompts


def _completions(written: unconstrained.Written, args: Args) -> grouped.Completions:
    """Completions of full length, paid for at random."""
    shape = (args.prompts, args.group)
    return grouped.Completions(
        written.tokens.reshape(*shape, -1),
        written.lengths.reshape(shape),
        jnp.ones(shape, bool),
        written.logprobs.reshape(*shape, -1),
        jax.random.uniform(jax.random.key(1), shape),
    )


def _summary(rounds: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """Medians, and ratios within a round."""
    parts: dict[str, Callable[[tuple[float, float]], float]] = {
        "write": lambda t: t[0],
        "learn": lambda t: t[1],
        "step": sum,
    }
    row: dict[str, Any] = {}
    for name, of in parts.items():
        times = [{side: of(t) for side, t in r.items()} for r in rounds]
        for side in ("shared", "copied"):
            seconds = float(np.median([t[side] for t in times]))
            row[f"{name}_seconds_{side}"] = round(seconds, 3)
        ratios = [t["copied"] / t["shared"] for t in times]
        row[f"{name}_times_faster"] = round(float(np.median(ratios)), 2)
        row[f"{name}_times_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    return row


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
