"""What each stage of the project compiles: a table of builders, one a stage."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.presets import QWEN3_VL, preset
from soler1_jax.planning import answering, improving, reinforcing, supervising
from soler1_jax.planning.program import Program, Sizes
from soler1_jax.reward.composite import TILE

Build = Callable[[ModelConfig, Mesh, Sizes], Program]


class Stage(NamedTuple):
    """How a stage is planned.

    Attributes:
      build: makes its program.
      mesh: (model, chips) -> default sizes of (data, fsdp, tensor).
      rows: of a batch for each part into which the mesh splits it, by default.
      tokens: of a row, by default.
      pictures: in a row, by default.
      picture_side: in pixels, by default.
    """

    build: Build
    mesh: Callable[[ModelConfig, int], tuple[int, int, int]]
    rows: int = 1
    tokens: int = 2048
    pictures: int = 4
    picture_side: int = 256


def _sharded(config: ModelConfig, chips: int) -> tuple[int, int, int]:
    """Weights and optimizer over the most chips that leave each enough channels.

    A TPU's vectors have 128 lanes. Of qwen3-vl-8b over 64 chips, 64 channels a chip, the
    compiler gathered all weights by sums of zeros and parts, twice the bytes of a gather.
    """
    size = config.text.hidden_size
    even = [n for n in range(1, chips + 1) if chips % n == 0 and size % n == 0]
    fsdp = max((n for n in even if size // n >= _LANES), default=1)
    return (chips // fsdp, fsdp, 1)


def _by_heads(config: ModelConfig, chips: int) -> tuple[int, int, int]:
    """As many chips a copy of the weights as key-value heads can be spread over."""
    tensor = math.gcd(chips, config.text.num_kv_heads)
    return (chips // tensor, 1, tensor)


def _one_policy(config: ModelConfig, chips: int) -> tuple[int, int, int]:
    """All chips share the worlds of one policy."""
    return (1, chips, 1)


_OWN = ("micro", "pico", "nano", "mini")
_LANES = 128

STAGES = {
    "sft": Stage(supervising.program, _sharded),
    "reward": Stage(answering.program, _by_heads, rows=8, tokens=512),
    "rlvr": Stage(improving.program, _sharded, tokens=512),
    "rl": Stage(
        reinforcing.program,
        _one_policy,
        rows=8,
        tokens=1024,
        pictures=reinforcing.PICTURES,
        picture_side=TILE,
    ),
}


def model_config(name: str) -> ModelConfig:
    """The configuration of a released model, traced as on a TPU.

    Raises:
      UserError: there is no such model, or none that can be planned.
    """
    if name in _OWN:
        raise UserError(
            f"--model is a released model; got {name!r}, which fits any chip; choose one "
            f"of {', '.join(QWEN3_VL)}"
        )
    # Layouts for the CPU on which this runs must not leak into the program.
    return dataclasses.replace(preset(name), attention="pallas_tpu")


def find(name: str) -> Stage:
    """The stage of a name.

    Raises:
      UserError: there is none.
    """
    if name not in STAGES:
        raise UserError(f"unknown stage {name!r}{nearest_hint(name, STAGES)}")
    return STAGES[name]
