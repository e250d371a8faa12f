"""transformers on a random Qwen3-VL, as the other side of `bench generate` and `train`.

Kept apart because it imports torch.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from soler1_jax.checkpoints.hf_config import to_hf
from soler1_jax.cli.bench_generate import Inputs, Timing, timing
from soler1_jax.common.errors import UserError
from soler1_jax.model.config import ModelConfig
from soler1_jax.training.optimizer import OptimizerConfig

Model = transformers.Qwen3VLForConditionalGeneration


class _Clock(transformers.StoppingCriteria):
    """Notes the time after each token and stops nothing."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object
    ) -> torch.Tensor:
        """Called by `generate` once a token; bool [B]."""
        self.times.append(_now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def write_checkpoint(config: ModelConfig, folder: Path, seed: int) -> None:
    """Draw weights as transformers does and store them as it does.

    Their spread keeps the size of activations; with less of it every prompt repeats one
    token, and that both sides write the same would say little.
    """
    torch.manual_seed(seed)
    data = to_hf(config)
    for part, size in (
        (data, config.text.hidden_size),
        (data["text_config"], config.text.hidden_size),
        (data["vision_config"], config.vision.hidden_size),
    ):
        part["initializer_range"] = size**-0.5
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with _quiet(), torch.device(where):
        model = Model(transformers.Qwen3VLConfig(**data))
        model.to(getattr(torch, config.dtype)).save_pretrained(folder)


def load(folder: Path, dtype: str) -> Model:
    """Load a checkpoint, with as many threads as this process has cores.

    Raises:
      UserError: JAX computes on a device that torch does not see.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cpu"
    if jax.default_backend() != "cpu":
        if not torch.cuda.is_available():
            raise UserError(
                "both sides must run on the same kind of device; JAX has "
                f"{jax.default_backend()} and torch the CPU; install torch for it, or "
                "add --no-peer"
            )
        device = "cuda"
    with _quiet():
        model = Model.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device).eval()


def call(
    model: Model, config: ModelConfig, inputs: Inputs, length: int
) -> Callable[[], Timing]:
    """Return a call that generates `length` tokens greedily.

    Args:
      model: of `load`.
      config: the same model's.
      inputs: what a processor returns.
      length: S; no token ends a text earlier.
    """
    given = {k: torch.from_numpy(v).to(model.device) for k, v in inputs.items()}
    given["pixel_values"] = given["pixel_values"].to(model.dtype)
    kinds = (given["input_ids"] == config.media.image).long()
    prompt = given["input_ids"].shape[1]

    @torch.no_grad()
    def generate() -> Timing:
        clock = _Clock()
        model.model.rope_deltas = None
        start = _now()
        with _quiet():
            out = model.generate(
                **given,
                mm_token_type_ids=kinds,
                do_sample=False,
                max_new_tokens=length,
                eos_token_id=None,
                stopping_criteria=transformers.StoppingCriteriaList([clock]),
            )
        tokens = out[:, prompt:].cpu().numpy().astype(np.int32)
        return timing(start, clock.times[0], _now(), tokens)

    return generate


def training(
    model: Model,
    config: ModelConfig,
    inputs: Inputs,
    answer_tokens: int,
    learning: OptimizerConfig,
    *,
    remat: bool,
) -> Callable[[], tuple[float, float]]:
    """Return a step of training all weights; it returns its seconds and loss.

    Args:
      model: of `load`, in float32.
      config: the same model's; its dtype is that of products.
      inputs: what a processor returns.
      answer_tokens: the last of each record, which count.
      learning: of the optimizer; the rate is constant.
      remat: whether layers are computed again in the backward pass.
    """
    model.train()
    if remat:
        model.gradient_checkpointing_enable()
    given = {k: torch.from_numpy(v).to(model.device) for k, v in inputs.items()}
    dtype = getattr(torch, config.dtype)
    given["pixel_values"] = given["pixel_values"].to(dtype)
    kinds = (given["input_ids"] == config.media.image).long()
    # Of each record the last tokens before its padding.
    left = given["attention_mask"].flip(1).cumsum(1).flip(1)
    counted = (left > 0) & (left <= answer_tokens) & (given["attention_mask"] > 0)
    labels = given["input_ids"].masked_fill(~counted, -100)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=learning.learning_rate,
        betas=(learning.b1, learning.b2),
        weight_decay=learning.weight_decay,
    )

    def step() -> tuple[float, float]:
        start = _now()[0]
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(
                **given, mm_token_type_ids=kinds, labels=labels, use_cache=False
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), learning.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        return _now()[0] - start, value

    return step


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the screen."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
