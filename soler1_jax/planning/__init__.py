"""Plans: what a step takes on a machine that is not there, told by its compiler."""
