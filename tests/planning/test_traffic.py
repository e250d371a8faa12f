"""Bytes that programs move, counted by hand."""

import pytest

from soler1_jax.planning.hlo import Module
from soler1_jax.planning.traffic import hbm_bytes

FLOAT = 4
TEXT = """
%same (p: f32[64,128]) -> f32[64,128] {
  %p = f32[64,128]{1,0} parameter(0)
  ROOT %b = f32[64,128]{1,0} bitcast(%p)
}

%layer (w: f32[9,64,128], x: f32[8,64]) -> f32[8,128] {
  %w = f32[9,64,128]{2,1,0} parameter(0)
  %one = f32[1,64,128]{2,1,0} slice(%w), slice={[3:4], [0:64], [0:128]}
  %flat = f32[64,128]{1,0} bitcast(%one)
  %x = f32[8,64]{1,0} parameter(1)
  ROOT %d = f32[8,128]{1,0} dot(%x, %flat), lhs_contracting_dims={1}
}

%whole (v: f32[64,128], x: f32[8,64]) -> f32[8,128] {
  %v = f32[64,128]{1,0} parameter(0)
  %f = f32[64,128]{1,0} fusion(%v), kind=kLoop, calls=%same
  %x.1 = f32[8,64]{1,0} parameter(1)
  ROOT %d.1 = f32[8,128]{1,0} dot(%x.1, %f), lhs_contracting_dims={1}
}

ENTRY %main (w: f32[9,64,128], v: f32[64,128], x: f32[8,64]) -> f32[8,128] {
  %w.1 = f32[9,64,128]{2,1,0} parameter(0)
  %v.1 = f32[64,128]{1,0} parameter(1)
  %x.2 = f32[8,64]{1,0} parameter(2)
  ROOT %out = INSTRUCTION
}
"""
X, WEIGHT, OUT = FLOAT * 8 * 64, FLOAT * 64 * 128, FLOAT * 8 * 128


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        # of stacked weights only the layer that is cut out within is read
        (
            "f32[8,128]{1,0} fusion(%w.1, %x.2), kind=kOutput, calls=%layer",
            WEIGHT + X + OUT,
        ),
        # what a fusion within only passes on is read
        (
            "f32[8,128]{1,0} fusion(%v.1, %x.2), kind=kOutput, calls=%whole",
            WEIGHT + X + OUT,
        ),
        # a piece is fetched into the memory on the chip, S(1)
        (
            "((f32[64,128]{1,0}), f32[16,128]{1,0:S(1)}, s32[]) slice-start(%v.1), "
            "slice={[0:16], [0:128]}",
            WEIGHT // 4,
        ),
        (
            "f32[16,128]{1,0} slice(%v.1), slice={[0:16], [0:128]}",
            2 * WEIGHT // 4,
        ),
    ],
)
def test_what_is_cut_out_is_read_and_no_more(instruction, expected):
    module = Module(TEXT.replace("INSTRUCTION", instruction))
    assert hbm_bytes(module) == expected
