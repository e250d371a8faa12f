"""MJX tabletop tasks, their cameras and their ground truth."""
