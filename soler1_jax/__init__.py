"""Video-language reward models inside compiled robot learning loops, in JAX."""
