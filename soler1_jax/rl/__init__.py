"""Pixel reinforcement learning with the rewarder inside the compiled loop."""
