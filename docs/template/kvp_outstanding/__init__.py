"""A compression method for kvpress-video."""
