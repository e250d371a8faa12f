"""Tokens a second: this project's generation beside `transformers.generate`.

Both read the same random weights of Qwen3-VL's shape, the same prompts with pictures,
and write greedily. What happens up to the first token (picture encoder and prompt) is
reported apart from the tokens after it. The two sides take turns, so that a busy moment
of the machine hits both, and use as many threads.

Letters: B prompts, T tokens of a prompt, S new tokens, R rounds. Wall-clock seconds are
medians over rounds, without compilation; beside them stand processor seconds of all
threads, in which a machine shared with others shows less.
"""

import dataclasses
import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.cli import bench_ceilings
from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.model.config import MediaTokens, ModelConfig, TextConfig, VisionConfig
from soler1_jax.model.functional import Functional, Params, parameter_count
from soler1_jax.model.patches import Patches
from soler1_jax.model.presets import QWEN3_VL
from soler1_jax.model.prompt import Prompt, make_prompt
from soler1_jax.reward.pretrained import load_vlm, require_generation
from soler1_jax.sampling.unconstrained import Writing, begin, finish

_SMALL = ModelConfig(
    name="small",
    vision=VisionConfig(
        image_size=384,
        patch_size=16,
        temporal_patch_size=2,
        hidden_size=256,
        intermediate_size=1024,
        depth=12,
        num_heads=4,
        position_grid=48,
        deepstack_indexes=(2, 5, 8),
        scan_layers=True,
    ),
    text=TextConfig(
        vocab_size=16384,
        hidden_size=512,
        intermediate_size=1536,
        depth=14,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        rope_theta=5e6,
        mrope_section=(12, 10, 10),
        scan_layers=True,
        remat=True,
    ),
    media=MediaTokens(image=16380, video=16381, start=16378, end=16379),
)
PRESETS = {"small": _SMALL, **QWEN3_VL}
OURS, THEIRS = "soler1_jax", "transformers"


class Timing(NamedTuple):
    """One generation."""

    prefill: float  # seconds until the first token
    decode: float  # seconds of the other tokens
    prefill_cpu: float  # the same in seconds of all threads of this process
    decode_cpu: float
    tokens: np.ndarray  # int [B, S]


Inputs = dict[str, np.ndarray]
"""What a Qwen3-VL processor returns."""


def measure(
    preset: str,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
    pictures: int,
    picture_side: int,
    dtype: str,
    peer: bool,
    repeats: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield one row a side.

    Args:
      preset: a key of `PRESETS`.
      batch: B.
      prompt_tokens: T, those of pictures included.
      new_tokens: S, two or more.
      pictures: in each prompt.
      picture_side: in pixels.
      dtype: of weights and activations, float32 or bfloat16.
      peer: whether to time transformers.
      repeats: R.
      seed: of weights and prompts.

    Raises:
      UserError: a number or name is out of range, or transformers is wanted and missing.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{nearest_hint(preset, PRESETS)}")
    config = dataclasses.replace(PRESETS[preset], dtype=dtype)
    require_generation(config)
    if new_tokens < 2:
        raise UserError(
            "decoding is timed after the first token; got --new-tokens "
            f"{new_tokens}; give 2 or more"
        )
    inputs = make_inputs(config, batch, prompt_tokens, pictures, picture_side, seed)
    calls: dict[str, Callable[[], Timing]] = {}
    if peer:
        require_peer()
        from soler1_jax.cli import bench_transformers

        with tempfile.TemporaryDirectory() as folder:
            bench_transformers.write_checkpoint(config, Path(folder), seed)
            model = bench_transformers.load(Path(folder), dtype)
            params = load_vlm(folder, dtype).params
        calls[THEIRS] = bench_transformers.call(model, config, inputs, new_tokens)
    else:
        params = Functional(config).init(seed)
        params = jax.tree.map(lambda a: a.astype(dtype), params)
    calls[OURS] = _our_call(config, params, inputs, new_tokens)
    rows = _rows(calls, repeats, (batch, prompt_tokens, new_tokens))
    for row in rows.values():
        row |= {"dtype": dtype, "parameters": parameter_count(params)}
    if jax.default_backend() != "cpu":
        rows[OURS] |= bench_ceilings.shares(config, params, inputs, rows[OURS])
    yield from rows.values()


def require_peer() -> None:
    """Raise UserError unless transformers can run."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"transformers.generate needs {name}, which is not installed; "
                "pip install 'soler1_jax[parity]', or add --no-peer"
            )


def make_inputs(
    config: ModelConfig,
    batch: int,
    prompt_tokens: int,
    pictures: int,
    picture_side: int,
    seed: int,
) -> Inputs:
    """Draw prompts: pictures with words before, between and after them.

    Returns:
      What a Qwen3-VL processor returns; int64 [B, T] ids without padding.

    Raises:
      UserError: the pictures do not consist of whole tokens, or leave no room for words.
    """
    vision, media = config.vision, config.media
    token_side = vision.patch_size * vision.spatial_merge_size
    if picture_side < 1 or picture_side % token_side:
        raise UserError(
            f"a picture's side is a multiple of {token_side} pixels; got "
            f"{picture_side}; choose {max(1, picture_side // token_side) * token_side}"
        )
    shown = (picture_side // token_side) ** 2
    words = prompt_tokens - pictures * (shown + 2)
    if words < pictures + 1:
        raise UserError(
            f"{pictures} pictures of {shown} tokens and words around them must fit the "
            f"prompt; got --prompt-tokens {prompt_tokens}; give "
            f"{pictures * (shown + 3) + 1} or more"
        )
    draw = np.random.RandomState(seed)
    # Placeholders are the vocabulary's last tokens or nearly so.
    lowest = min(media.image, media.video, media.start, media.end)
    runs = np.array_split(draw.randint(0, lowest, (batch, words)), pictures + 1, axis=1)
    picture = np.full((batch, shown + 2), media.image)
    picture[:, 0], picture[:, -1] = media.start, media.end
    parts = [part for run in runs for part in (run, picture)][:-1]
    side = picture_side // vision.patch_size
    count = batch * pictures
    pixels = draw.uniform(-1, 1, (count * side**2, vision.patch_values))
    ids = np.concatenate(parts, axis=1).astype(np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "pixel_values": pixels.astype(np.float32),
        "image_grid_thw": np.tile([1, side, side], (count, 1)),
    }


def _our_call(
    config: ModelConfig, params: Params, inputs: Inputs, length: int
) -> Callable[[], Timing]:
    """Return a call that generates as `PretrainedVLM.generate` does, in two programs."""
    model, key = Functional(config), jax.random.key(0)
    # On the device and in the model's dtype before the clock starts, as the other side's.
    pixels = jax.device_put(inputs["pixel_values"].astype(jnp.dtype(config.dtype)))
    inputs = inputs | {"pixel_values": pixels}

    @jax.jit
    def first(params: Params, prompt: Prompt, patches: Patches) -> Writing:
        vlm = model.module(params)
        prefix = vlm.mix(prompt, vlm.encode_patches(patches))
        return begin(vlm, prefix, key, length=length)

    @functools.partial(jax.jit, donate_argnums=1)
    def others(params: Params, writing: Writing) -> Writing:
        return finish(model.module(params), writing)

    def call() -> Timing:
        start = _now()
        prompt, patches = make_prompt(config, **inputs)
        writing = jax.block_until_ready(first(params, prompt, patches))
        middle = _now()
        tokens = np.asarray(others(params, writing).written.tokens)
        return timing(start, middle, _now(), tokens)

    return call


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def timing(
    start: tuple[float, float],
    middle: tuple[float, float],
    end: tuple[float, float],
    tokens: np.ndarray,
) -> Timing:
    """Subtract the clocks before, at the first token and at the end."""
    spans = [b - a for a, b in zip((*start, *middle), (*middle, *end), strict=True)]
    prefill, prefill_cpu, decode, decode_cpu = spans
    return Timing(prefill, decode, prefill_cpu, decode_cpu, tokens)


def _rows(
    calls: dict[str, Callable[[], Timing]], repeats: int, shape: tuple[int, int, int]
) -> dict[str, dict[str, Any]]:
    """Run all sides once to compile, then R times in turn; side -> row."""
    first = {side: call() for side, call in calls.items()}
    rounds = [{side: call() for side, call in calls.items()} for _ in range(repeats)]
    rows = {}
    for side in calls:
        times = [r[side] for r in rounds]
        rows[side] = {"side": side} | _summary(times, shape)
        before = first[side].prefill + first[side].decode
        rows[side]["first_call_seconds"] = round(before, 2)
    if THEIRS in calls:
        rows[OURS] |= _ratios(rounds)
    return rows


def _summary(times: list[Timing], shape: tuple[int, int, int]) -> dict[str, Any]:
    """What one side did in all rounds."""
    batch, prompt, new = shape
    row: dict[str, Any] = {"batch": batch, "prompt_tokens": prompt, "new_tokens": new}
    tokens = {"prefill": batch * prompt, "decode": batch * (new - 1)}
    for part, count in tokens.items():
        seconds = [getattr(t, part) for t in times]
        cpu = [getattr(t, f"{part}_cpu") for t in times]
        row |= {
            f"{part}_seconds": round(float(np.median(seconds)), 4),
            f"{part}_seconds_range": [round(min(seconds), 4), round(max(seconds), 4)],
            f"{part}_tokens_per_second": round(count / float(np.median(seconds)), 1),
            f"{part}_cpu_seconds": round(float(np.median(cpu)), 4),
        }
    return row


def _ratios(rounds: list[dict[str, Timing]]) -> dict[str, Any]:
    """How many times faster we were, the median over rounds, and whether tokens agree."""
    row: dict[str, Any] = {}
    for part in ("prefill", "decode"):
        for name, field in ((part, part), (f"{part}_cpu", f"{part}_cpu")):
            times = [
                getattr(r[THEIRS], field) / getattr(r[OURS], field) for r in rounds
            ]
            row[f"{name}_times_transformers"] = round(float(np.median(times)), 2)
            row[f"{name}_times_range"] = [round(min(times), 2), round(max(times), 2)]
    same = [np.mean(r[THEIRS].tokens == r[OURS].tokens) for r in rounds]
    row["same_tokens"] = round(float(np.min(same)), 4)
    row["distinct_tokens"] = len(np.unique(rounds[0][OURS].tokens))
    return row
