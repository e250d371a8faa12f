"""Lets the tests of this folder use the small models of tests/qwen3_vl."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "qwen3_vl"))
