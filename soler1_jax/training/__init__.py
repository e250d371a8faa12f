"""Supervised fine-tuning and learning from verifiable rewards."""
