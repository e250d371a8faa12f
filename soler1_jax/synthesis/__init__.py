"""Runs, labels, thoughts and questions made from simulation."""
