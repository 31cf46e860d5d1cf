"""Prefill: the hooks on a model, chunking, and prefills that several compressions share."""
