"""Measurements of what the layers of a model do with visual tokens."""
