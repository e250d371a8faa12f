"""Causal attention of many continuations of one prompt, the prompt computed once."""
