"""Measure how the layers of a model use visual tokens."""
