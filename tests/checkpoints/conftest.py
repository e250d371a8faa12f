"""Lets the tests of this folder use the small models of other folders."""

import sys
from pathlib import Path

for name in ("qwen3_vl", "paligemma"):
    sys.path.append(str(Path(__file__).parents[1] / name))
