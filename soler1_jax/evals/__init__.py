"""Rewarders measured against the truth."""
