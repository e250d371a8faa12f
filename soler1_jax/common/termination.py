"""SIGTERM as a wish: machines that are about to be taken away ask first.

Whoever works in steps asks after each of them whether to save and end.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax


@contextlib.contextmanager
def noticed() -> Iterator[Callable[[int], bool]]:
    """Within it SIGTERM does not kill.

    Yields:
      Step -> whether to end after it. With several processes all are told the same, once
      one of them was asked to end.
    """
    if jax.process_count() > 1:
        # JAX's service hears the signal in every process and agrees on a step.
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may listen.
        yield lambda _: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda _: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
