"""Saving, restoring and shipping of training states and models."""
