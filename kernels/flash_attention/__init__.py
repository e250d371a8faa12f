"""Attention in memory linear in length, with blocks that nobody may see left out."""
