"""A step of GRPO: how fast completions are written, and how fast they are learnt from.

The programs are those of `soler1 rlvr-vlm` (training/grouped.py): each prompt with its
pictures is run once, G completions are written to it, and the update runs the prompt once
more with all of them behind it. Weights are random, so a completion ends at its length;
rewards are drawn, as checking texts is the host's work and not timed.

Letters: B prompts, G completions of each, T tokens of a prompt, S of a completion, R
rounds. Seconds are medians over rounds, without compilation; prompts are on the device
before the clock starts.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from soler1_jax.cli import bench_ceilings
from soler1_jax.cli.bench_generate import PRESETS, make_inputs
from soler1_jax.cli.bench_train import on_devices, packed_rows, with_remat
from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.data.packing import PackedRows
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, parameter_count
from soler1_jax.planning import improving
from soler1_jax.planning.program import Sizes
from soler1_jax.planning.supervising import training_state
from soler1_jax.training import grouped
from soler1_jax.training import state as states
from soler1_jax.training.grpo import GrpoConfig
from soler1_jax.training.state import TrainState

WRITE, LEARN, BOTH = "write", "learn", "both"


def measure(
    preset: str,
    prompts: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    pictures: int,
    picture_side: int,
    top_p: float,
    dtype: str,
    remat: bool,
    repeats: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row for writing, one for learning and one for both.

    Args:
      preset: a key of `bench_generate.PRESETS`.
      prompts: B.
      group: G.
      prompt_tokens: T, those of pictures included.
      new_tokens: S.
      pictures: in each prompt.
      picture_side: in pixels.
      top_p: share of probability that sampling keeps.
      dtype: of activations and products, float32 or bfloat16; weights are float32.
      remat: whether layers are computed again in the backward pass.
      repeats: R.
      seed: of weights, prompts, samples and rewards.

    Raises:
      UserError: a number or name is out of range.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{nearest_hint(preset, PRESETS)}")
    config = with_remat(dataclasses.replace(PRESETS[preset], dtype=dtype), remat)
    how = GrpoConfig(group=group, top_p=top_p)
    sizes = Sizes(
        batch=prompts,
        tokens=prompt_tokens,
        pictures=pictures,
        picture_side=picture_side,
        new_tokens=new_tokens,
        group=group,
    )
    drawn = [
        make_inputs(config, 1, prompt_tokens, pictures, picture_side, seed + i)
        for i in range(prompts)
    ]
    step = _Step(config, how, packed_rows(config, drawn, 1, prompts), new_tokens, seed)
    first = step()
    rounds = [step() for _ in range(repeats)]
    side = {"side": 2048} if jax.default_backend() == "cpu" else {}
    ceiling = bench_ceilings.matmul_ceiling(dtype, **side)
    written, learnt = improving.flops(config, sizes, sizes.patches(config))
    flops = {WRITE: written, LEARN: learnt, BOTH: written + learnt}
    for part, flop in flops.items():
        seconds = [r[part] for r in rounds]
        middle = float(np.median(seconds))
        yield {
            "part": part,
            "prompts": prompts,
            "group": group,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "top_p": top_p,
            "dtype": dtype,
            "parameters": step.parameters,
            "seconds": round(middle, 6),
            "seconds_range": [round(min(seconds), 6), round(max(seconds), 6)],
            "first_seconds": round(first[part], 2),
            "rewards_per_second": round(prompts * group / middle, 2),
            "new_tokens_per_second": round(rounds[-1]["written"] / middle, 1),
            "tflops": round(flop / middle / 1e12, 4),
            "mfu": round(flop / middle / ceiling, 4),
            "matmul_tflops": round(ceiling / 1e12, 4),
            "mismatch_nats": round(rounds[-1]["mismatch"], 6),
        }


class _Step:
    """One step after another, timed; holds the training state.

    Args:
      config: of the model.
      how: sampling and objective.
      prompts: one a row.
      length: S.
      seed: of weights, samples and rewards.
    """

    def __init__(
        self,
        config: ModelConfig,
        how: GrpoConfig,
        prompts: PackedRows,
        length: int,
        seed: int,
    ) -> None:
        functions, mesh = Functional(config), meshes.make_mesh()
        optimizer, _, shardings = training_state(functions, mesh)

        def start() -> TrainState:
            return states.create(functions.init(seed), optimizer, seed)

        self._state = jax.jit(start, out_shardings=shardings)()
        self.parameters = parameter_count(self._state.params)
        # the last word stands for a checkpoint's stop token
        stop = (config.text.vocab_size - 1,)
        self._sample = grouped.make_sampler(
            functions, how, length, stop, mesh, shardings.params
        )
        self._update = grouped.make_update(functions, optimizer, how, mesh, shardings)
        self._prompts = on_devices(config, prompts, mesh)
        shape = (len(prompts.ids), how.group)
        rewards = np.random.RandomState(seed).uniform(size=shape).astype(np.float32)
        self._rewards = jax.device_put(rewards, meshes.batch_sharding(mesh))

    def __call__(self) -> dict[str, float]:
        """Returns seconds of each part, tokens written, and the sampler's mismatch."""
        start = time.perf_counter()
        key = states.step_key(self._state)
        out = self._sample(self._state.params, self._prompts, key)
        jax.block_until_ready(out)
        middle = time.perf_counter()
        out = out._replace(rewards=self._rewards)
        self._state, metrics = self._update(self._state, self._prompts, out)
        jax.block_until_ready((self._state, metrics))
        end = time.perf_counter()
        return {
            WRITE: middle - start,
            LEARN: end - middle,
            BOTH: end - start,
            "written": int(np.sum(out.lengths)),
            "mismatch": float(metrics["mismatch"]),
        }
