"""Rays against primitive geoms."""
