"""Benchmarks that come with the toolkit: a procedural video world and the training of the bundled model."""
