"""Draws evaluated episodes as one picture: frames, progress, thoughts.

    python experiments/picture.py runs/quickstart/episodes/*-after-0.npz

Each episode is a strip: both cameras at every question, the rewarder's progress against
the truth, and what it wrote. The result is experiments/results/episode.png.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from soler1_jax.common.errors import UserError
from soler1_jax.viz.episodes import EpisodeView, load_episode
from soler1_jax.viz.player import spoken

SIDE, GAP, MARGIN = 108, 8, 18
HEAD, CURVE, LINE, LINES = 34, 120, 15, 6
INK, SOFT, RULE, PAPER = "#1b1f24", "#6a737d", "#d8dde3", "#ffffff"
SAID, TRUE = "#d9541e", "#1b1f24"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What to draw."""

    episodes: tyro.conf.Positional[tuple[Path, ...]]
    """Files of `soler1 rl`, in RUN/episodes."""
    out: Path = Path("experiments/results/episode.png")
    """The picture."""


def main(args: Args) -> None:
    """Writes the picture."""
    if not args.episodes:
        raise UserError("an episode is needed; got none; name files of RUN/episodes")
    strips = [strip(load_episode(path)) for path in args.episodes]
    width = max(s.width for s in strips)
    whole = Image.new("RGB", (width, sum(s.height for s in strips)), PAPER)
    top = 0
    for one in strips:
        whole.paste(one, (0, top))
        top += one.height
    args.out.parent.mkdir(parents=True, exist_ok=True)
    whole.save(args.out, optimize=True)
    print(args.out)


def strip(episode: EpisodeView) -> Image.Image:
    """One episode as a picture."""
    views = [v for v in (episode.frames, episode.wrist) if v is not None]
    count = len(episode.frames)
    width = 2 * MARGIN + count * (SIDE + GAP) - GAP
    films = len(views) * (SIDE + GAP)
    height = HEAD + films + CURVE + (2 + LINES) * LINE + 2 * MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    verdict = {True: "solved", False: "not solved", None: ""}[episode.success]
    pen.text((MARGIN, MARGIN), f"“{episode.task}”", INK, font(17))
    pen.text((width - MARGIN, MARGIN), verdict, SOFT, font(15), anchor="ra")
    for row, view in enumerate(views):
        for t in range(count):
            tile = Image.fromarray(view[t]).resize(
                (SIDE, SIDE), Image.Resampling.NEAREST
            )
            y = MARGIN + HEAD + row * (SIDE + GAP)
            canvas.paste(tile, (MARGIN + t * (SIDE + GAP), y))
    top = MARGIN + HEAD + films
    draw_curve(pen, episode, top, width)
    for t in range(count):
        draw_words(pen, episode, t, top + CURVE)
    pen.line([(0, height - 1), (width, height - 1)], RULE)
    return canvas


def draw_curve(pen: Any, episode: EpisodeView, top: int, width: int) -> None:
    """Draws both courses of progress; a frame's value is below the frame."""
    series = ((episode.true, TRUE, 2), (episode.predicted, SAID, 3))
    lowest = -100.0 if min(float(np.min(v)) for v, _, _ in series) < -5 else 0.0

    def at(t: int, value: float) -> tuple[float, float]:
        share = (np.clip(value, lowest, 100.0) - lowest) / (100.0 - lowest)
        x = MARGIN + t * (SIDE + GAP) + SIDE / 2
        return x, top + 10 + (1 - share) * (CURVE - 24)

    for level in sorted({lowest, 0.0, 100.0}):
        y = at(0, level)[1]
        pen.line([(MARGIN, y), (width - MARGIN, y)], RULE)
        pen.text((MARGIN, y), f"{level:.0f} %", SOFT, font(11), anchor="ld")
    for values, color, thickness in series:
        points = [at(t, v) for t, v in enumerate(values)]
        pen.line(points, color, thickness, joint="curve")
        for x, y in points:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], color)


def draw_words(pen: Any, episode: EpisodeView, t: int, top: int) -> None:
    """Draws what was said of one frame, and the truth."""
    left = MARGIN + t * (SIDE + GAP)
    if t == 0:
        pen.text((left, top), "0 by definition", SOFT, font(12))
        pen.text((left, top + LINE), "said", SAID, font(12))
        pen.text((left + 32, top + LINE), "true", TRUE, font(12))
        return
    pen.text((left, top), f"{episode.predicted[t]:.0f} %", SAID, font(13))
    pen.text((left + 46, top), f"{episode.true[t]:.0f} %", TRUE, font(13))
    words, line, row = spoken(episode.thoughts[t]).split(), "", 1
    for word in [*words, ""]:
        longer = f"{line} {word}".strip()
        if word and font(12).getlength(longer) <= SIDE - 2:
            line = longer
            continue
        pen.text((left, top + 3 + row * LINE), line, INK, font(12))
        line, row = word, row + 1


def font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        print(f"picture: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
