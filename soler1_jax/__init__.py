"""Video-language reward models inside compiled robot learning loops, in JAX."""

import importlib
from pathlib import Path
from typing import Any

_beside = Path(__file__).parent.parent
if (_beside / "setup.cfg").is_file() and (_beside / "kernels").is_dir():
    # Python that is started in a checkout finds this folder before what is installed,
    # and that alone knows that `soler1_jax.kernels` lies beside it.
    __path__.append(str(_beside))

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
