"""Grids of cells, from Python values, flags or YAML, with checks."""
