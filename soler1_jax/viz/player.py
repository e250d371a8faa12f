"""An episode on a page: its film, progress against the truth, thoughts at each query.

The film is one lossless picture of all frames side by side, so that stepping through
it is exact and needs no video decoder.
"""

import dataclasses
import html
import json
from collections.abc import Iterator

import numpy as np

from soler1_jax.data import text
from soler1_jax.viz import plots
from soler1_jax.viz.episodes import EpisodeView
from soler1_jax.viz.video import film_strip, png_uri

_PLAY_SECONDS = 6.0
_MAX_FRAMES = 121


def player(episode: EpisodeView, name: str) -> str:
    """One episode as HTML.

    Args:
      episode: what to show; longer ones are thinned to 121 frames.
      name: unique on the page; letters, digits and dashes.
    """
    episode = _thinned(
        dataclasses.replace(episode, thoughts=[spoken(t) for t in episode.thoughts])
    )
    count = len(episode.frames)
    data = {
        "said": [round(float(p)) for p in episode.predicted],
        "truth": [None if np.isnan(t) else round(float(t)) for t in episode.true],
        "thoughts": [[t, episode.thoughts[t]] for t in episode.queries],
        "left": plots.CURSOR_SPAN[0],
        "right": plots.CURSOR_SPAN[1],
        "pause": max(40, round(1000 * _PLAY_SECONDS / count)),
    }
    script = json.dumps(data).replace("<", "\\u003c")
    return (
        f"<style>{''.join(_films(episode, name))}</style>"
        f'<article class="episode" data-n="{count}">{_heading(episode)}'
        f'<div class="stage"><div>{_screens(episode, name)}'
        '<div class="bar"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{count - 1}" value="0" aria-label="frame">'
        "</div><output></output></div>"
        f'{curve(episode)}</div><p class="now"></p>{_shots(episode, name)}'
        f'<script type="application/json">{script}</script></article>'
    )


def spoken(said: str) -> str:
    """The thought of a completion, or the text itself if it is no completion."""
    parts = text.split_completion(said)
    return parts[0] if parts else said


def curve(episode: EpisodeView) -> str:
    """Progress said and true over the frames, with a cursor."""
    frames = np.arange(len(episode.frames))
    lowest = min(0.0, float(np.nanmin(episode.true, initial=0.0)))
    lowest = min(lowest, float(np.min(episode.predicted, initial=0.0)))
    series = []
    if np.isfinite(episode.true).any():
        series.append(
            plots.Series(
                "true progress", frames, episode.true, "var(--truth)", dashed=True
            )
        )
    series.append(
        plots.Series("said by the rewarder", frames, episode.predicted, "var(--said)")
    )
    series += [
        plots.Series("", [t], [episode.predicted[t]], "var(--said)", dots=True)
        for t in episode.queries
    ]
    axes = plots.Axes(
        "frame",
        "progress, %",
        x_range=(0, max(1, len(frames) - 1)),
        y_range=(-105 if lowest < -50 else -55 if lowest < -5 else -8, 105),
    )
    return plots.line_chart(series, axes, cursor=True)


def _thinned(episode: EpisodeView) -> EpisodeView:
    count = len(episode.frames)
    if count <= _MAX_FRAMES:
        return episode
    even = np.linspace(0, count - 1, _MAX_FRAMES - len(episode.queries)).astype(int)
    keep = sorted({*even.tolist(), *episode.queries[: _MAX_FRAMES - 2]})
    return dataclasses.replace(
        episode,
        frames=episode.frames[keep],
        predicted=episode.predicted[keep],
        true=episode.true[keep],
        thoughts=[episode.thoughts[t] for t in keep],
        wrist=None if episode.wrist is None else episode.wrist[keep],
    )


def _films(episode: EpisodeView, name: str) -> Iterator[str]:
    for view, frames in (("external", episode.frames), ("wrist", episode.wrist)):
        if frames is not None:
            count, height, width = frames.shape[:3]
            yield (
                f".{name}-{view}{{background-image:url({png_uri(film_strip(frames))});"
                f"background-size:{count * 100}% 100%;aspect-ratio:{width}/{height}}}"
            )


def _screens(episode: EpisodeView, name: str) -> str:
    small = '<figure><div class="film small {0}-wrist"></div>'
    small += "<figcaption>wrist camera</figcaption></figure>"
    return (
        f'<div class="screens"><figure><div class="film {name}-external"></div>'
        "<figcaption>external camera</figcaption></figure>"
        f"{small.format(name) if episode.wrist is not None else ''}</div>"
    )


def _heading(episode: EpisodeView) -> str:
    badge = ""
    if episode.success is not None:
        kind, word = ("right", "solved") if episode.success else ("wrong", "not solved")
        badge = f'<span class="badge {kind}">{word}</span>'
    title = f'<span class="soft">{html.escape(episode.title)}</span>'
    return f"<h3>“{html.escape(episode.task)}”{badge}</h3>{title}"


def _shots(episode: EpisodeView, name: str) -> str:
    count = len(episode.frames)
    shots = []
    for t in episode.queries:
        place = 100 * t / max(1, count - 1)
        true = float(episode.true[t])
        truth = "" if np.isnan(true) else f' <span class="soft">true {true:.0f}</span>'
        shots.append(
            f'<div class="shot"><div class="film {name}-external" '
            f'style="background-position:{place:.4f}% 0"></div><div>'
            f'<b><span class="said">{episode.predicted[t]:.0f} %</span>{truth}</b>'
            f"{html.escape(episode.thoughts[t])}</div></div>"
        )
    return f'<div class="shots">{"".join(shots)}</div>' if shots else ""
