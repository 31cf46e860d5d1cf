"""Compression of models that others run: `patch()`, and programs started by `kvpress-video run`."""
