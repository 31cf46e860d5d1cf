"""Compression of served models: `patch()`, and commands started by `kvpress-video run`."""
