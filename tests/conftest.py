"""Every test runs on the CPU, with compiled programs kept between runs.

Most of a test's time is XLA's: programs here run once. So they are compiled in a hurry,
which halves the time of the suite or better, unless `$XLA_FLAGS` is set: `.ci/run` sets
it to nothing, so that the slower tests run what users run, and so does
`XLA_FLAGS= make test`.
"""

import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from soler1_jax.common import compile_cache

compile_cache.enable()
_HURRY = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11, 1):
    # a flag that later versions do not know, and die of
    _HURRY += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _HURRY)
if jax.__version_info__ >= (0, 11):
    # threads of XLA's pool; kernels for GPUs, interpreted, block some of them
    os.environ.setdefault("NPROC", "8")

# Compilation makes first examples slow; fixed seeds keep CI repeatable.
hypothesis.settings.register_profile("jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jax")


# Linux lets a process have 65,530 memory maps (vm.max_map_count). Every compiled program
# takes three or more, and the process dies at the one for which none is left.
_MANY_MAPS = 30_000


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Lets go of compiled programs when there are very many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key."""
    return jax.random.key(0)


@pytest.fixture
def qwen_folder(tmp_path: Path) -> Path:
    """The small files of a tiny Qwen checkpoint, to be changed at will."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(Path(__file__).parent / "golden/qwen_tiny", folder)
    config = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 1024, "longest_edge": 4096},
    }
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).write_text(json.dumps(config))
    return folder


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows by one whenever XLA compiles a program."""
    events: list[str] = []

    def heard(name: str, seconds: float, **_: Any) -> None:
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield events
    jax.monitoring.unregister_event_duration_listener(heard)
