"""XLA's persistent compilation cache, switched on by entry points only."""

import os
from pathlib import Path

import jax


def enable() -> None:
    """Keeps compiled programs between processes.

    The folder is `$JAX_COMPILATION_CACHE_DIR` or `~/.cache/soler1_jax/xla`. A folder
    that cannot be made leaves the cache off: it only saves time.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        folder = str(Path.home() / ".cache" / "soler1_jax" / "xla")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
