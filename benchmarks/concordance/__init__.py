"""Orderings of methods published in papers, against the same orderings on an installed benchmark."""
