"""A rewarder's own roll-out: it watches stored episodes and hears only itself.

Whatever a rewarder remembers (an earlier answer, for one) comes from its own earlier
answers, as it does inside reinforcement learning; feeding it the true previous
progress instead hides that it copies (arXiv 2603.28730, section 3). One compiled scan
over the queries serves all batches. E episodes, B a batch, T frames, Q = T - 1
queries, S tokens; progress in percent.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import MAX_PROGRESS, Rewarder, TaskText

# How far the previous progress is moved when its influence is measured (percent).
NUDGE = 40.0


class Nudged(NamedTuple):
    """Answers after the previous progress was replaced by truth + and - 40."""

    raised: np.ndarray  # float32 [E, Q], answers
    lowered: np.ndarray  # float32 [E, Q]
    shown_raised: np.ndarray  # float32 [E, Q], what was shown
    shown_lowered: np.ndarray  # float32 [E, Q]


class Rollout(NamedTuple):
    """What a rewarder said at every query of every episode."""

    progress: np.ndarray  # float32 [E, Q]
    expected: np.ndarray  # float32 [E, Q], mean of the answer's distribution
    entropy: np.ndarray  # float32 [E, Q], nats
    parsed: np.ndarray  # bool [E, Q]
    tokens: np.ndarray  # int32 [E, Q, S]
    nudged: Nudged | None  # None: it never sees a previous value
    queries_per_second: float  # of the batches after the first, which compiles


def roll_out(
    rewarder: Rewarder,
    views: Mapping[str, np.ndarray],
    sentences: Sequence[str],
    truth: np.ndarray,
    *,
    seed: int,
    batch: int = 32,
    nudge: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Rollout:
    """Asks a rewarder about frames 1 .. T-1 of each episode, in order.

    Args:
      rewarder: what to ask.
      views: view -> uint8 [E, T, H, W, 3]; of the rewarder's size.
      sentences: E task sentences.
      truth: float32 [E, T], true progress. Only a rewarder with `uses_truth` is
        handed it; for others it only places the nudges.
      seed: of the rewarder's sampling.
      batch: B, episodes at once; the last batch is filled up and cut, so that any
        number of episodes shares one compilation.
      nudge: also ask with the previous progress moved, if the rewarder keeps one.
      done: called with the number of finished episodes.

    Raises:
      UserError: a view is missing or has another size than the rewarder needs.
    """
    needed = check_views(rewarder, views)
    total = len(sentences)
    text = rewarder.prepare(list(sentences))
    key = jax.random.key(seed)
    parts, seconds = [], []
    for start in range(0, total, batch):
        rows = np.arange(start, start + batch) % total
        began = time.monotonic()
        part = _watch(
            rewarder,
            {view: needed[view][rows] for view in needed},
            jax.tree.map(lambda x, rows=rows: x[rows], text),
            jax.random.fold_in(key, start),
            np.asarray(truth, np.float32)[rows],
            nudge,
        )
        parts.append(jax.device_get(part))
        seconds.append(time.monotonic() - began)
        done(min(start + batch, total))
    values = jax.tree.map(lambda *x: np.concatenate(x)[:total], *parts)
    timed = seconds[1:] or seconds
    rate = batch * values["progress"].shape[1] * len(timed) / sum(timed)
    nudged = values.pop("nudged")
    nudged = Nudged(*nudged) if nudged is not None else None
    return Rollout(**values, nudged=nudged, queries_per_second=rate)


def check_views(
    rewarder: Rewarder, views: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the views that the rewarder looks through, of those that there are.

    Raises:
      UserError: one that it cannot do without is missing, or one has another size.
    """
    used = [v for v in rewarder.views if v in views or v not in rewarder.dispensable]
    for view in used:
        if view not in views:
            raise UserError(
                f"rewarder {rewarder.name} looks through {', '.join(rewarder.views)}; "
                f"got {', '.join(views) or 'no view'}; give the missing view"
            )
        size = tuple(views[view].shape[-3:-1])
        if rewarder.fit is None and size != (rewarder.image_size, rewarder.image_size):
            raise UserError(
                f"rewarder {rewarder.name} needs frames of {rewarder.image_size} "
                f"pixels a side; got {size[1]}x{size[0]}; resize them"
            )
    return {view: views[view] for view in used}


@functools.partial(jax.jit, static_argnames="nudge")
def _watch(
    rewarder: Rewarder,
    views: dict[str, jax.Array],
    task: TaskText,
    key: jax.Array,
    truth: jax.Array,
    nudge: bool,
) -> dict[str, Any]:
    """One batch: arrays [B, Q, ...] under Rollout's names."""
    frames = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), views)
    start_key, scan_key = jax.random.split(key)
    first = jax.tree.map(lambda x: x[0], frames)
    state = rewarder.start(rewarder.params, first, task, start_key)
    nudge = nudge and previous_of(state) is not None

    def ask(state: Any, seen: dict, key: jax.Array, true: jax.Array) -> Any:
        handed = true if rewarder.uses_truth else None
        return rewarder.score(rewarder.params, state, seen, key, handed)

    def step(state: Any, inputs: Any) -> Any:
        seen, key, before, true = inputs
        after, verdict = ask(state, seen, key, true)
        said = {
            "progress": verdict.progress,
            "expected": verdict.expected,
            "entropy": verdict.entropy,
            "parsed": verdict.parsed,
            "tokens": verdict.tokens,
            "nudged": None,
        }
        if nudge:
            shown = [
                jnp.clip(before + d, -MAX_PROGRESS, MAX_PROGRESS)
                for d in (NUDGE, -NUDGE)
            ]
            moved = [ask(with_previous(state, s), seen, key, true) for s in shown]
            said["nudged"] = (*[verdict.progress for _, verdict in moved], *shown)
        return after, said

    later = jax.tree.map(lambda x: x[1:], frames)
    times = jnp.moveaxis(truth, 1, 0)
    keys = jax.random.split(scan_key, times.shape[0] - 1)
    _, said = jax.lax.scan(step, state, (later, keys, times[:-1], times[1:]))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), said)


def previous_of(state: Any) -> jax.Array | None:
    """The previous answer that an episode state keeps, or None.

    A rewarder that sees its own previous answer keeps it, float32 [B] in percent, as
    the attribute `previous_progress` of its episode state.
    """
    return getattr(state, "previous_progress", None)


def with_previous(state: Any, value: jax.Array) -> Any:
    """The same state with another previous answer, float32 [B] in percent."""
    replace = getattr(state, "_replace", None) or state.replace
    return replace(previous_progress=value)
