"""Grids: what a sweep is made of, checked."""
