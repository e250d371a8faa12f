"""The calls that gpu_attention.py times: this project's kernels and their peers'.

A case is one problem; its calls all take the same arrays. Peers that know no segments get
them as a mask, and where a prefix is shared they get copies of it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from soler1_jax.kernels.decode_attention.api import decode_attention
from soler1_jax.kernels.decode_attention.shapes import DecodeShape
from soler1_jax.kernels.flash_attention.api import flash_attention
from soler1_jax.kernels.flash_attention.reference import flash_attention as exact
from soler1_jax.kernels.flash_attention.reference import mask as exact_mask
from soler1_jax.kernels.flash_attention.shapes import Shape
from soler1_jax.kernels.shared_prefix_attention.api import shared_prefix_attention

Call = Callable[..., Any]
TORCH = importlib.util.find_spec("torch") is not None
_PACKED = (1500, 900, 700, 520, 300)
FLASH = {
    "text 2b, causal 4096": Shape(1, 4096, 16, 8, 128, causal=True),
    "text 8b, causal 4096": Shape(2, 4096, 32, 8, 128, causal=True),
    "full 4096, heads of 128": Shape(1, 4096, 16, 16, 128),
    "full 1024, heads of 64": Shape(8, 1024, 16, 16, 64),
    "full 1024, heads of 72": Shape(8, 1024, 16, 16, 72),
    "text 8b, packed 4096": Shape(2, 4096, 32, 8, 128, causal=True, segments=_PACKED),
    "frames of 256, heads of 64": Shape(4, 4096, 16, 16, 64, segments=(256,) * 16),
    "frames of 256, heads of 72": Shape(4, 4096, 16, 16, 72, segments=(256,) * 16),
    "causal 1024, heads of 256, cap": Shape(
        4, 1024, 8, 4, 256, causal=True, logit_cap=50.0
    ),
}
SMALL_FLASH = {
    "full 256": Shape(1, 256, 2, 1, 64),
    "packed 256": Shape(2, 256, 4, 2, 64, causal=True, segments=(100, 90)),
}
DECODE = (
    DecodeShape("qwen3-vl-2b", 8, 1024, 16, 8, 128),
    DecodeShape("qwen3-vl-2b", 256, 1024, 16, 8, 128),
    DecodeShape("qwen3-vl-8b", 64, 8192, 32, 8, 128),
    DecodeShape("qwen3-vl-8b", 8, 32768, 32, 8, 128),
)
SMALL_DECODE = (DecodeShape("small", 2, 256, 4, 2, 64),)


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Prompts and their answers.

    Attributes:
      batch, group: prompts, and answers to each.
      prefix, suffix: tokens of a prompt and of an answer.
      heads, key_heads, size: Hq, Hkv and D.
    """

    batch: int
    group: int
    prefix: int
    suffix: int
    heads: int
    key_heads: int
    size: int

    def shapes(self) -> list[tuple[int, ...]]:
        """Return those of q, k, v of prefixes, then of suffixes."""
        heads = (self.heads, self.key_heads, self.key_heads)
        prefix = [(self.batch, self.prefix, h, self.size) for h in heads]
        return prefix + [
            (self.batch, self.group, self.suffix, h, self.size) for h in heads
        ]

    def pairs(self) -> float:
        """Return how many pairs of query and key of all prompts and one head there are."""
        p, s = self.prefix, self.suffix
        own = self.group * (s * p + s * (s + 1) / 2)
        return self.batch * (p * (p + 1) / 2 + own)


PREFIX = {
    "2b, 2 x 1024, 8 answers of 128": Prefix(2, 8, 1024, 128, 16, 8, 128),
    "8b, 2 x 1024, 8 answers of 128": Prefix(2, 8, 1024, 128, 32, 8, 128),
}
SMALL_PREFIX = {"small": Prefix(1, 2, 128, 64, 4, 2, 64)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem, and who solves it.

    Attributes:
      row: what a row of the table says of it: `case`, `kind`, `flops` or `bytes`.
      shapes: of the arrays that every call takes, all bfloat16.
      count: sets of arrays.
      calls: by label.
      draw: from a key to one set of arrays.
      check: from one set and a call's result to its relative error; None if too large.
      torch: from a set of torch's tensors to its result; None if it cannot.
      learns: how many of torch's tensors, from the first, have gradients.
    """

    row: dict[str, Any]
    shapes: list[tuple[int, ...]]
    count: int
    calls: dict[str, Call]
    draw: Callable[[jax.Array], tuple[jax.Array, ...]]
    check: Callable[[tuple, Any], float] | None
    torch: Call | None = None
    learns: int = 0


def draw(shapes: list[tuple[int, ...]], key: jax.Array) -> tuple[jax.Array, ...]:
    """Return normal numbers in bfloat16."""
    keys = jax.random.split(key, len(shapes))
    return tuple(
        jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=True)
    )


def error(got: Any, wanted: Any) -> float:
    """Return the greatest relative error of any array, by its norm."""
    return max(
        float(
            jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
            / jnp.linalg.norm(b.ravel())
        )
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    )


def with_gradients(call: Call) -> Call:
    """Return a call that takes the output's gradient last and returns all gradients."""

    def both(*args: jax.Array) -> Any:
        out, pull = jax.vjp(call, *args[:-1])
        return out, pull(args[-1])

    return both


def flash_cases(shapes: dict[str, Shape], gpu: bool) -> Iterator[Case]:
    """Yield attention forward, and forward and backward."""
    for name, shape in shapes.items():
        q = (shape.batch, shape.length, shape.heads, shape.size)
        k = (shape.batch, shape.length, shape.key_heads, shape.size)
        ids = shape.segment_ids()
        ids = None if ids is None else jnp.asarray(ids)
        calls = _flash_calls(shape, ids, gpu)
        for backward in (False, True):
            flops = 4.0 * shape.batch * shape.heads * shape.size * shape.pairs()
            kind = "forward and backward" if backward else "forward"
            wrap = with_gradients if backward else (lambda call: call)
            cap = shape.logit_cap is not None
            yield Case(
                {"case": name, "kind": kind, "flops": flops * (3.5 if backward else 1)},
                [q, k, k, q] if backward else [q, k, k],
                6,
                {label: wrap(call) for label, call in calls.items()},
                functools.partial(
                    _draw_flash, [q, k, k, q][: 4 if backward else 3], ids
                ),
                # all logits in float32 would take gigabytes
                None
                if shape.length > 2048
                else functools.partial(_check_flash, shape, ids, wrap),
                None if cap else _torch_flash(shape, ids),
                3 if backward else 0,
            )


def _draw_flash(shapes, ids, key) -> tuple[jax.Array, ...]:
    arrays = draw(shapes, key)
    if ids is None or len(arrays) < 4:
        return arrays
    # what lies in the padding is nobody's; peers would let it have gradients
    return *arrays[:3], jnp.where((ids > 0)[..., None, None], arrays[3], 0)


def _flash_calls(shape: Shape, ids: jax.Array | None, gpu: bool) -> dict[str, Call]:
    calls = {
        f"soler1_jax {name}": functools.partial(
            flash_attention,
            implementation=name,
            causal=shape.causal,
            q_segments=ids,
            kv_segments=ids,
            logit_cap=shape.logit_cap,
        )
        for name in (("pallas_gpu", "xla") if gpu else ("xla",))
    }
    if shape.logit_cap is not None:
        return calls
    allowed = _allowed(shape, ids)

    def jax_nn(q, k, v):
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=allowed,
            is_causal=shape.causal and allowed is None,
            implementation="cudnn" if gpu else "xla",
        )

    calls["cudnn" if gpu else "jax.nn"] = jax_nn
    if gpu and ids is None:
        calls["jax pallas (float16)"] = _jax_pallas(shape)
    return calls


def _allowed(shape: Shape, ids: jax.Array | None) -> jax.Array | None:
    """Return the mask for peers; a row that sees nothing sees all, lest it be NaN."""
    if ids is None:
        return None
    allowed = exact_mask(shape.length, shape.length, shape.causal, ids, ids)
    return allowed | ~jnp.any(allowed, axis=-1, keepdims=True)


def _check_flash(shape, ids, wrap, args, got) -> float:
    def plain(q, k, v):
        out = exact(
            q,
            k,
            v,
            causal=shape.causal,
            q_segments=ids,
            kv_segments=ids,
            logit_cap=shape.logit_cap,
        )[0]
        return out if ids is None else jnp.where((ids > 0)[..., None, None], out, 0)

    wanted = jax.jit(wrap(plain))(*(x.astype(jnp.float32) for x in args))
    if ids is not None:
        keep = (ids > 0)[..., None, None]
        got = jax.tree.map(lambda x: jnp.where(keep, x, 0), got)
    return error(got, wanted)


def _jax_pallas(shape: Shape) -> Call:
    from jax.experimental.pallas.ops.gpu import attention_mgpu

    config = attention_mgpu.TuningConfig(
        block_q=64,
        block_kv=128,
        max_concurrent_steps=2,
        causal=shape.causal,
        compute_wgs_bwd=2,
        block_q_dkv=64,
        block_kv_dkv=64,
        block_q_dq=64,
        block_kv_dq=64,
    )

    def call(q, k, v):
        halves = (x.astype(jnp.float16) for x in (q * shape.size**-0.5, k, v))
        return attention_mgpu.attention(*halves, config).astype(q.dtype)

    return call


def _torch_flash(shape: Shape, ids: jax.Array | None) -> Call | None:
    if not TORCH:
        return None
    import torch

    allowed = _allowed(shape, ids)

    def call(q, k, v, *dout):
        mask = None
        if allowed is not None:
            mask = torch.from_numpy(np.array(allowed)).to(q.device)
        return functools.partial(
            torch.nn.functional.scaled_dot_product_attention,
            attn_mask=mask,
            is_causal=shape.causal and mask is None,
            enable_gqa=shape.heads != shape.key_heads,
        )

    return call


def prefix_cases(shapes: dict[str, Prefix], gpu: bool) -> Iterator[Case]:
    """Yield attention of prompts and answers, forward and backward, and of copies."""

    def graded(run: Call) -> Call:
        def call(*args):
            out, pull = jax.vjp(run, *args[:6])
            return out, pull(tuple(args[6:]))

        return call

    def ours(name: str) -> Call:
        return graded(functools.partial(shared_prefix_attention, implementation=name))

    for name, shape in shapes.items():
        calls = {"soler1_jax xla": ours("xla")}
        peers = {"copies, jax.nn": "xla"}
        if gpu:
            calls = {"soler1_jax pallas_gpu": ours("pallas_gpu")} | calls
            peers = {"copies, cudnn": "cudnn", "copies, pallas_gpu": "pallas_gpu"}
        for label, kind in peers.items():
            calls[label] = graded(functools.partial(_copied, shape, kind))
        arrays = shape.shapes()
        arrays += [arrays[0], arrays[3]]
        truth = graded(functools.partial(_copied, shape, "xla"))

        def check(args, got, truth=truth):
            wanted = jax.jit(truth)(*(x.astype(jnp.float32) for x in args))
            return error(got, wanted)

        yield Case(
            {
                "case": name,
                "kind": "forward and backward",
                "flops": 3.5 * 4 * shape.heads * shape.size * shape.pairs(),
            },
            arrays,
            4,
            calls,
            functools.partial(draw, arrays),
            check,
        )


def _copied(shape: Prefix, name: str, *arrays: jax.Array) -> tuple:
    """Return attention over one copy of the prompt an answer."""
    b, g, p, s = shape.batch, shape.group, shape.prefix, shape.suffix
    whole = [
        jnp.concatenate(
            [jnp.broadcast_to(x[:, None], (b, g, *x.shape[1:])), y], axis=2
        ).reshape(b * g, p + s, -1, shape.size)
        for x, y in zip(arrays[:3], arrays[3:], strict=True)
    ]
    if name == "pallas_gpu":
        out = flash_attention(*whole, causal=True, implementation=name)
    else:
        out = jax.nn.dot_product_attention(*whole, is_causal=True, implementation=name)
    out = out.reshape(b, g, p + s, shape.heads, shape.size)
    return out[:, 0, :p], out[:, :, p:]


def decode_cases(shapes: tuple[DecodeShape, ...], gpu: bool) -> Iterator[Case]:
    """Yield one new token a sequence; lengths lie in the upper half of the capacity."""
    for shape in shapes:
        q, k, v, _ = (x.shape for x in shape.arguments())
        lengths = np.random.default_rng(0).integers(
            shape.capacity // 2, shape.capacity, shape.batch, np.int32, endpoint=True
        )
        calls = {
            name if name == "cudnn" else f"soler1_jax {name}": functools.partial(
                decode_attention, lengths=jnp.asarray(lengths), implementation=name
            )
            for name in (("pallas_gpu", "xla", "cudnn") if gpu else ("xla",))
        }
        read = lengths.mean() / shape.capacity * shape.cache_bytes
        yield Case(
            {"case": shape.label, "kind": "decode", "bytes": float(read)},
            [q, k, v],
            max(2, min(8, 2**33 // shape.cache_bytes)),
            calls,
            functools.partial(draw, [q, k, v]),
            functools.partial(_check_decode, lengths)
            if shape.cache_bytes < 2**26
            else None,
            _torch_decode(shape, lengths),
        )


def _check_decode(lengths, args, got) -> float:
    few = functools.partial(decode_attention, implementation="xla")
    wanted = jax.jit(few)(*(x.astype(jnp.float32) for x in args), jnp.asarray(lengths))
    return error(got, wanted)


def _torch_decode(shape: DecodeShape, lengths: np.ndarray) -> Call | None:
    if not TORCH:
        return None
    import torch

    def call(q, k, v):
        seen = np.arange(shape.capacity) < lengths[:, None]
        mask = torch.from_numpy(seen[:, None, None]).to(q.device)
        return functools.partial(
            torch.nn.functional.scaled_dot_product_attention,
            attn_mask=mask,
            enable_gqa=True,
        )

    return call
