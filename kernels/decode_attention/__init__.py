"""Attention of one new token a sequence against a cache."""
