"""What can be asked about one frame: which things are seen, where, and how they are.

Positions in the picture are centroids of the id buffer in pixels, x to the right and
y down; positions in space are metres in the world's axes (x right, y away from the
camera, z up, as seen from the external camera).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from soler1_jax.data.records import CLASSES, COLORS, SHAPES, Episode

GRIPPER, OBJECT0, OBJECT1, PLATE, SLIDE, HINGE = range(1, 7)
OBJECTS = (OBJECT0, OBJECT1)
FIXTURES = (SLIDE, HINGE)

# A thing with fewer pixels than this share of the frame is not asked about.
MIN_SHARE = 1 / 512
COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Look:
    """One frame of an episode, read through its id buffer and its facts."""

    episode: Episode
    frame: int

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        pixels = self.episode.semantic[self.frame].ravel()
        return np.bincount(pixels, minlength=len(CLASSES))

    def seen(self, thing: int) -> bool:
        """Whether enough pixels show the thing, and it has a name."""
        enough = self._counts[thing] >= MIN_SHARE * self._counts.sum()
        return bool(enough) and bool(self.episode.names[thing])

    def name(self, thing: int) -> str:
        """Words for a thing, without an article."""
        return self.episode.names[thing]

    @functools.cached_property
    def things(self) -> tuple[int, ...]:
        """Classes that can be asked about, the gripper not among them."""
        return tuple(c for c in (*OBJECTS, PLATE, *FIXTURES) if self.seen(c))

    @functools.cached_property
    def located(self) -> tuple[int, ...]:
        """Those of `things` whose position in space is measured."""
        return tuple(c for c in self.things if self.position(c) is not None)

    def centre(self, thing: int) -> tuple[float, float]:
        """Centroid in the picture as shares of its width and height, in [0, 1]."""
        rows, columns = np.nonzero(self.episode.semantic[self.frame] == thing)
        height, width = self.episode.semantic.shape[1:]
        return float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height

    def column(self, thing: int) -> int:
        """Centroid's column of eight, 1 at the left edge."""
        return 1 + min(int(self.centre(thing)[0] * COLUMNS), COLUMNS - 1)

    def position(self, thing: int) -> np.ndarray | None:
        """Position in metres, float32 [3]; None where no fact states it."""
        names = {SLIDE: "handle", HINGE: "handle", GRIPPER: "gripper", PLATE: "plate"}
        names |= {OBJECT0: "object0", OBJECT1: "object1"}
        if thing not in names:
            return None
        return self.episode.position(names[thing])[self.frame]

    def travel(self, thing: int) -> float:
        """Travel of a fixture's moving part, 0 shut .. 1 open."""
        return self.fact("slide" if thing == SLIDE else "hinge")

    def fact(self, name: str) -> float:
        """One measured fact at this frame."""
        return float(self.episode.fact(name)[self.frame])

    def color(self, thing: int) -> str:
        """Colour of a thing in words."""
        return COLORS[int(self.episode.colors[thing])]

    def shape(self, thing: int) -> str:
        """Shape of a thing in words, "none" for a fixture."""
        return SHAPES[int(self.episode.shapes[thing])]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its rationale and answer, and what makes the answer true.

    Attributes:
      prompt: the question, lower case.
      rationale: facts from which the answer follows, lower case.
      answer: a word, a short phrase or a number.
      truth: machine-readable: "kind", the things asked about, the measured values.
    """

    prompt: str
    rationale: str
    answer: str
    truth: dict[str, str | float]
