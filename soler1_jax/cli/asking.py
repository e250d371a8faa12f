"""The rewarder of a command that scores videos, asked as its options say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Readout = Literal["greedy", "sampled", "expected", "glance", "likelihood"]


def video_rewarder(
    spec: str, readout: Readout | None, view: str, *, from_zero: bool = False
) -> Any:
    """Makes a rewarder of videos.

    Args:
      spec: what `load_rewarder` takes.
      readout: how progress is read; None for what suits the rewarder.
      view: external, wrist, or both for a rewarder that can look through both.
      from_zero: ask without the previous frame and progress.

    Raises:
      UserError: the options do not suit the rewarder, or see `load_rewarder`.
    """
    from soler1_jax.common.errors import UserError
    from soler1_jax.reward.load import has_heads, is_released, load_rewarder
    from soler1_jax.reward.vlm import VLMSettings

    if not is_released(Path(spec)):
        if from_zero or readout == "likelihood":
            option = "--from-zero" if from_zero else "--readout likelihood"
            raise UserError(
                f"released models alone are asked with {option}; got --rewarder {spec}; "
                "leave it out"
            )
        return load_rewarder(spec, VLMSettings(readout=readout or "glance"))
    from soler1_jax.reward.likelihood import LikelihoodSettings
    from soler1_jax.reward.watching import WatchSettings

    one = "wrist" if view == "wrist" else "external"
    heads, likely = has_heads(Path(spec)), readout == "likelihood"
    if from_zero and (heads or likely):
        raise UserError(
            "a rewarder that writes its progress is asked from zero; this one is read "
            "without; leave --from-zero out"
        )
    if heads:
        if readout is not None:
            raise UserError(
                "a model with read-out heads has no other read-out; got --readout "
                f"{readout}; leave it out"
            )
        return load_rewarder(spec, released=WatchSettings(view=one))
    if likely:
        return load_rewarder(spec, released=LikelihoodSettings(view=one))
    return load_rewarder(spec, released=_written(readout, view, from_zero))


def _written(readout: Readout | None, view: str, from_zero: bool) -> Any:
    """Settings of a released model that writes its progress."""
    from soler1_jax.common.errors import UserError
    from soler1_jax.reward.sole import RELEASED_METHOD, SoleSettings
    from soler1_jax.sampling.methods import GREEDY

    methods = {None: GREEDY, "greedy": GREEDY, "sampled": RELEASED_METHOD}
    if readout not in methods:
        raise UserError(
            "a released model's number is read from its text, or from the likelihood of "
            f"an answer; got --readout {readout}; use greedy, sampled or likelihood"
        )
    return SoleSettings(
        views="external_and_wrist" if view == "both" else view,
        from_zero=from_zero,
        method=methods[readout],
    )
