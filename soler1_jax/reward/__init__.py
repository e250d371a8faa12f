"""Rewarders: the model, and the controls it is compared with."""
