"""Decoding inside jit: methods, grammars, the loop."""
