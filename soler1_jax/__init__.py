"""Video-language reward models inside compiled robot learning loops, in JAX."""

import importlib
from typing import Any

# Looked up on first use, so that importing the package imports nothing else.
_WHERE = {
    "load_rewarder": "soler1_jax.reward.load",
    "load_vlm": "soler1_jax.reward.pretrained",
}

__all__ = ["load_rewarder", "load_vlm"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
