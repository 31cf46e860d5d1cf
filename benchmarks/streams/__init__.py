"""Benchmarks of streams: length, number of sessions, accuracy."""
