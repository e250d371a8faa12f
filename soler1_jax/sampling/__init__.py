"""Decoding inside jit: methods, the answer grammar, the loop."""
