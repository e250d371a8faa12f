"""Milliseconds of attention: this project's kernels beside `jax.nn`.

The calls are those of `kernels/flash_attention/shapes.py`; on a CPU a quarter of their
length and heads. `jax.nn.dot_product_attention` gets packed rows and frames as a mask,
and copies of a shared prompt; it has no soft cap, so neither side has one.

Letters: B batch, T tokens, H heads, D head size. Seconds are wall-clock, the best of some
calls in turn.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from soler1_jax.kernels.flash_attention.api import flash_attention
from soler1_jax.kernels.flash_attention.shapes import SHAPES, Shape
from soler1_jax.kernels.shared_prefix_attention import api as shared_prefix
from soler1_jax.kernels.shared_prefix_attention import reference as copied_prefix

Array = jax.Array

_MEMBERS = 8
_PREFIX, _SUFFIX = 1024, 128


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Two programs for the same numbers.

    Attributes:
      name: what is attended to, for the table.
      arguments: of both programs.
      ours, theirs: from the arguments to a tree of outputs.
      work: pairs of query and key that ours must visit, by those of theirs.
    """

    name: str
    arguments: tuple[Array, ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    work: float


def measure(dtype: str, repeats: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one row a call and pass.

    Args:
      dtype: float32 or bfloat16.
      repeats: timed calls; the best counts.
      seed: of the numbers.

    Yields:
      `attention`, `pass` ("forward" or "and backward"), `milliseconds` and
      `jax_nn_milliseconds`, `times_faster`, `work` (the share of pairs of query and key
      that are allowed), and the megabytes of temporary memory of both.
    """
    key = jax.random.key(seed)
    small = jax.default_backend() == "cpu"
    for name, shape in SHAPES.items():
        yield from _rows(
            _of_shape(name, _quarter(shape) if small else shape, dtype, key), repeats
        )
    yield from _rows(_of_prefix(2 if small else 32, dtype, key), repeats)


def _quarter(shape: Shape) -> Shape:
    """Return a quarter of the heads, and of the length beyond 512."""
    by = 4 if shape.length > 512 else 1
    return dataclasses.replace(
        shape,
        batch=min(shape.batch, 2) if shape.heads > 4 else shape.batch,
        length=shape.length // by,
        segments=tuple(n // by for n in shape.segments),
        heads=shape.heads // 4 if shape.heads > 4 else shape.heads,
        key_heads=max(shape.key_heads // 4, 1) if shape.heads > 4 else shape.key_heads,
    )


def _of_shape(name: str, shape: Shape, dtype: str, key: Array) -> _Comparison:
    sizes = [
        (shape.batch, shape.length, n, shape.size)
        for n in (shape.heads, shape.key_heads, shape.key_heads)
    ]
    segments = shape.segment_ids()
    mask = None
    if segments is not None:
        segments = jnp.asarray(segments)
        mask = segments[:, None, :, None] == segments[:, None, None, :]

    def ours(q: Array, k: Array, v: Array) -> Array:
        return flash_attention(
            q,
            k,
            v,
            causal=shape.causal,
            q_segments=segments,
            kv_segments=segments,
        )

    def theirs(q: Array, k: Array, v: Array) -> Array:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=shape.causal)

    work = shape.pairs() / shape.length**2
    return _Comparison(name, _normal(key, sizes, dtype), ours, theirs, work)


def _of_prefix(heads: int, dtype: str, key: Array) -> _Comparison:
    counts = (heads, max(heads // 4, 1), max(heads // 4, 1))
    sizes = [(1, _PREFIX, n, 128) for n in counts]
    sizes += [(1, _MEMBERS, _SUFFIX, n, 128) for n in counts]

    def theirs(*arguments: Array) -> Array:
        pairs = zip(arguments[:3], arguments[3:], strict=True)
        joined = [copied_prefix.copies(*pair) for pair in pairs]
        return jax.nn.dot_product_attention(*joined, is_causal=True)

    own = _PREFIX * (_PREFIX + 1) + _MEMBERS * _SUFFIX * (_SUFFIX + 1)
    visited = own / 2 + _MEMBERS * _SUFFIX * _PREFIX
    return _Comparison(
        f"{_MEMBERS} answers to a prompt",
        _normal(key, sizes, dtype),
        shared_prefix.shared_prefix_attention,
        theirs,
        visited / (_MEMBERS * (_PREFIX + _SUFFIX) ** 2),
    )


def _normal(key: Array, sizes: list[tuple[int, ...]], dtype: str) -> tuple[Array, ...]:
    keys = jax.random.split(key, len(sizes))
    return tuple(
        jax.random.normal(k, size, dtype) for k, size in zip(keys, sizes, strict=True)
    )


def _rows(comparison: _Comparison, repeats: int) -> Iterator[dict[str, Any]]:
    for name, make in (("forward", _forward), ("and backward", _backward)):
        ours, theirs = (
            jax.jit(make(function)).lower(*comparison.arguments).compile()
            for function in (comparison.ours, comparison.theirs)
        )
        best = {ours: float("inf"), theirs: float("inf")}
        for _ in range(repeats):
            # in turn, so that a busy moment of the machine hits both
            for program in best:
                begin = time.perf_counter()
                jax.block_until_ready(program(*comparison.arguments))
                best[program] = min(best[program], time.perf_counter() - begin)
        yield {
            "attention": comparison.name,
            "pass": name,
            "milliseconds": round(1e3 * best[ours], 2),
            "jax_nn_milliseconds": round(1e3 * best[theirs], 2),
            "times_faster": round(best[theirs] / best[ours], 2),
            "work": round(comparison.work, 3),
            "megabytes": _megabytes(ours),
            "jax_nn_megabytes": _megabytes(theirs),
        }


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _backward(function: Callable[..., Any]) -> Callable[..., Any]:
    def loss(*arguments: Array) -> Array:
        outputs = jax.tree.leaves(function(*arguments))
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in outputs)

    def gradients(*arguments: Array) -> tuple[Array, ...]:
        return jax.grad(loss, argnums=tuple(range(len(arguments))))(*arguments)

    return gradients


def _megabytes(program: Any) -> float:
    return round(program.memory_analysis().temp_size_in_bytes / 2**20, 1)
