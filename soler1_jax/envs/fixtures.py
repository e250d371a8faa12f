"""Geometry of the fixtures: one slide joint and one hinge joint become seven things.

A fixture is a static base (two boxes) and a moving part (box, disc and handle) on one
joint. Which fixture it is is data: a row of the tables below replaces positions, sizes
and the joint in the physics model at run time, so one compiled step serves all kinds.

Frames: the base's origin stands on the table; its front faces -y, where the external
camera is. The part's origin is on the joint. Lengths are metres, half extents for boxes,
(radius, half length, unused) for discs; angles are radians.
"""

from typing import NamedTuple

import numpy as np

from soler1_jax.envs.tasks import FIXTURES

SLIDES = ("absent", "drawer", "button", "window")
HINGES = ("absent", "door", "lid", "lever", "dial")

# FIXTURES index -> row of the slide table, row of the hinge table (0 = absent).
SLIDE_ROW = np.asarray(
    [SLIDES.index(f) if f in SLIDES else 0 for f in FIXTURES], np.int32
)
HINGE_ROW = np.asarray(
    [HINGES.index(f) if f in HINGES else 0 for f in FIXTURES], np.int32
)

_UPRIGHT = (1.0, 0.0, 0.0, 0.0)
_ALONG_X = (0.7071068, 0.0, 0.7071068, 0.0)
_ALONG_Y = (0.7071068, 0.7071068, 0.0, 0.0)

Vector = tuple[float, float, float]


class Fixture(NamedTuple):
    """One kind of fixture, or a table of kinds with a leading axis.

    Positions of base boxes are in the base's frame, of the part's geoms in the part's.
    A size of zero hides a geom. `span` is the half width that a scene keeps clear in x,
    `front` and `rear` the y of the base's origin in a scene: lower and upper bound.
    """

    base0_pos: Vector = (0.0, 0.0, 0.0)
    base0_size: Vector = (0.0, 0.0, 0.0)
    base1_pos: Vector = (0.0, 0.0, 0.0)
    base1_size: Vector = (0.0, 0.0, 0.0)
    part_pos: Vector = (0.0, 0.0, 0.0)
    move_pos: Vector = (0.0, 0.0, 0.0)
    move_size: Vector = (0.0, 0.0, 0.0)
    disc_pos: Vector = (0.0, 0.0, 0.0)
    disc_size: Vector = (0.0, 0.0, 0.0)
    disc_quat: tuple[float, float, float, float] = _UPRIGHT
    handle_pos: Vector = (0.0, 0.0, 0.0)
    handle_size: Vector = (0.02, 0.02, 0.02)
    axis: Vector = (0.0, 0.0, 1.0)
    range: tuple[float, float] = (0.0, 0.1)
    stiffness: float = 0.0
    damping: float = 2.0
    span: float = 0.1
    front: float = 0.12
    rear: float = 0.16


_DRAWER = Fixture(
    base0_pos=(0.0, 0.055, 0.045),
    base0_size=(0.075, 0.01, 0.045),
    base1_pos=(0.0, 0.0, 0.097),
    base1_size=(0.075, 0.065, 0.007),
    part_pos=(0.0, 0.0, 0.045),
    move_size=(0.066, 0.055, 0.04),
    disc_pos=(0.0, -0.08, 0.0),
    disc_size=(0.008, 0.025, 0.0),
    disc_quat=_ALONG_Y,
    handle_pos=(0.0, -0.11, 0.0),
    handle_size=(0.036, 0.011, 0.018),
    axis=(0.0, -1.0, 0.0),
    range=(0.0, 0.1),
    damping=3.0,
    front=0.17,
    rear=0.2,
)

_BUTTON = Fixture(
    base0_pos=(0.0, 0.0, 0.02),
    base0_size=(0.05, 0.05, 0.02),
    part_pos=(0.0, 0.0, 0.058),
    disc_size=(0.036, 0.022, 0.0),
    handle_size=(0.034, 0.025, 0.0215),
    axis=(0.0, 0.0, -1.0),
    range=(0.0, 0.025),
    stiffness=20.0,
    damping=2.0,
    front=0.04,
    rear=0.14,
)

_WINDOW = Fixture(
    base0_pos=(0.0, 0.0, 0.01),
    base0_size=(0.15, 0.016, 0.01),
    base1_pos=(0.0, 0.0, 0.165),
    base1_size=(0.15, 0.012, 0.007),
    part_pos=(-0.08, 0.0, 0.088),
    move_size=(0.06, 0.006, 0.068),
    disc_pos=(0.0, -0.025, 0.0),
    disc_size=(0.007, 0.025, 0.0),
    disc_quat=_ALONG_Y,
    handle_pos=(0.0, -0.055, 0.0),
    handle_size=(0.014, 0.014, 0.03),
    axis=(1.0, 0.0, 0.0),
    range=(0.0, 0.16),
    damping=3.0,
    span=0.15,
    front=0.13,
    rear=0.17,
)

_DOOR = Fixture(
    base0_pos=(-0.08, 0.0, 0.075),
    base0_size=(0.013, 0.013, 0.075),
    base1_pos=(0.085, 0.012, 0.075),
    base1_size=(0.012, 0.012, 0.075),
    part_pos=(-0.08, 0.0, 0.072),
    move_pos=(0.082, 0.0, 0.0),
    move_size=(0.068, 0.006, 0.062),
    disc_pos=(0.125, -0.025, 0.0),
    disc_size=(0.007, 0.022, 0.0),
    disc_quat=_ALONG_Y,
    handle_pos=(0.125, -0.05, 0.0),
    handle_size=(0.014, 0.014, 0.026),
    axis=(0.0, 0.0, -1.0),
    range=(0.0, 1.2),
    damping=0.03,
    span=0.12,
    front=0.14,
    rear=0.18,
)

_LID = Fixture(
    base0_pos=(0.0, 0.0, 0.03),
    base0_size=(0.075, 0.06, 0.03),
    part_pos=(0.0, 0.06, 0.066),
    move_pos=(0.0, -0.06, 0.0),
    move_size=(0.08, 0.063, 0.006),
    disc_pos=(0.0, -0.14, 0.0),
    disc_size=(0.007, 0.02, 0.0),
    disc_quat=_ALONG_Y,
    handle_pos=(0.0, -0.165, 0.0),
    handle_size=(0.034, 0.012, 0.013),
    axis=(-1.0, 0.0, 0.0),
    range=(0.0, 1.2),
    damping=0.03,
    front=0.10,
    rear=0.15,
)

_LEVER = Fixture(
    base0_pos=(0.0, 0.0, 0.055),
    base0_size=(0.03, 0.025, 0.055),
    part_pos=(0.0, 0.0, 0.112),
    move_pos=(0.0, -0.055, 0.0),
    move_size=(0.012, 0.055, 0.009),
    disc_size=(0.024, 0.036, 0.0),
    disc_quat=_ALONG_X,
    handle_pos=(0.0, -0.12, 0.0),
    handle_size=(0.034, 0.016, 0.016),
    axis=(-1.0, 0.0, 0.0),
    range=(-0.6, 0.6),
    damping=0.03,
    front=0.08,
    rear=0.15,
)

_DIAL = Fixture(
    base0_pos=(0.0, 0.0, 0.014),
    base0_size=(0.06, 0.06, 0.014),
    part_pos=(0.0, 0.0, 0.04),
    move_pos=(0.0, 0.02, 0.014),
    move_size=(0.011, 0.045, 0.006),
    disc_size=(0.05, 0.011, 0.0),
    handle_pos=(0.0, 0.065, 0.026),
    handle_size=(0.014, 0.014, 0.026),
    axis=(0.0, 0.0, 1.0),
    range=(-0.8, 0.8),
    damping=0.015,
    front=0.02,
    rear=0.10,
)


def _stack(rows: tuple[Fixture, ...]) -> Fixture:
    return Fixture(
        *(np.asarray(column, np.float32) for column in zip(*rows, strict=True))
    )


SLIDE_TABLE = _stack((Fixture(), _DRAWER, _BUTTON, _WINDOW))
HINGE_TABLE = _stack((Fixture(range=(0.0, 1.0)), _DOOR, _LID, _LEVER, _DIAL))
