"""Runs kernels for Hopper on the CPU, with Pallas' GPU interpreter.

The interpreter plays warpgroups as threads, shared memory, barriers and fetches; memory
that nobody wrote is NaN, a barrier left in the wrong phase or a race is an error. What
happens in registers, products and their sums, is played here with plain arrays: the
interpreter knows no sums that go on from registers, and reads no transposed memory. It
blocks threads of XLA's pool, which needs more of them than there are cores: see NPROC in
conftest. Where one warpgroup fails, those that wait for it are told: left to itself, the
interpreter waits for ever.
"""

import contextlib
import dataclasses
import threading
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic_gpu.interpret import params, shared_memory
from jax._src.state.types import TransposeTransform
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

needed = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the interpreter of jax 0.10 blocks itself"
)
"""Marks tests that interpret."""


class _Sums:
    """A reference to an array in registers."""

    def __init__(self, value: jax.Array) -> None:
        self.value = value

    def __getitem__(self, index: object) -> jax.Array:
        return self.value

    def __setitem__(self, index: object, value: jax.Array) -> None:
        self.value = value


def _read(ref: Any) -> jax.Array:
    last = getattr(ref, "transforms", ())[-1:]
    if last and isinstance(last[0], TransposeTransform):
        before = dataclasses.replace(ref, transforms=ref.transforms[:-1])
        return before[...].transpose(last[0].permutation)
    return ref[...]


def _wgmma(sums: _Sums, a, b) -> None:
    a = a if isinstance(a, jax.Array) else _read(a)
    sums.value += jnp.dot(a.astype(jnp.float32), _read(b).astype(jnp.float32))


def _run_state(body):
    def run(state):
        cells = jax.tree.map(_Sums, state)
        body(cells)
        return jax.tree.map(lambda cell: cell.value, cells)

    return run


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Within, all warpgroups end when one fails."""
    failed = threading.Event()
    run = thread_map._run_jaxpr

    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            while not super().wait(1):
                if failed.is_set():
                    raise RuntimeError("another warpgroup failed")
            return True

    def watched(*args: Any) -> None:
        try:
            run(*args)
        except BaseException:
            failed.set()
            raise

    known = types.SimpleNamespace(**{**vars(threading), "Condition": Condition})
    with (
        mock.patch.object(shared_memory, "threading", known),
        mock.patch.object(thread_map, "_run_jaxpr", watched),
    ):
        yield


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Within, calls of `plgpu.kernel` are interpreted."""
    run_scoped = pl.run_scoped

    def scoped(body, *types, **options):
        if types and all(isinstance(t, plgpu.ACC) for t in types):
            return body(*(_Sums(jnp.zeros(t.shape, t.dtype)) for t in types))
        return run_scoped(body, *types, **options)

    def iota(dtype, shape, dimension, layout):
        return jax.lax.broadcasted_iota(dtype, shape, dimension)

    played = {
        "wgmma": _wgmma,
        "wgmma_accumulator_load": lambda sums, wait_n=0: sums.value,
        "layout_cast": lambda x, layout: x,
        "load": lambda ref, index, **_: ref[...],
        "broadcasted_iota": iota,
    }
    with contextlib.ExitStack() as stack:
        options = params.InterpretGPUParams(detect_races=True)
        stack.enter_context(_watched())
        stack.enter_context(params.force_gpu_interpret_mode(options))
        for name, function in played.items():
            stack.enter_context(mock.patch.object(plgpu, name, function))
        stack.enter_context(mock.patch.object(pl, "run_state", _run_state))
        stack.enter_context(mock.patch.object(pl, "run_scoped", scoped))
        stack.enter_context(mock.patch.object(plgpu.ACC, "init", lambda x: x))
        yield
