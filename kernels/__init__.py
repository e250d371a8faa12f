"""Pallas and XLA kernels, imported as ``soler1_jax.kernels``."""
